"""All of the labelling job that imports Ray: the graph, the driver's loop, and what watches a run."""
