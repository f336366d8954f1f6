"""The only place of the labelling job that imports Ray: the graph, the driver's loop, the watching."""
