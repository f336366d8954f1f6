"""Labels in the formats other tools read, streamed: memory does not grow with the run."""
