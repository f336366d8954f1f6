"""Exports labels in the formats that other tools read, streamed, so that memory does not grow with the run."""
