"""The network of the paper, its weights, its losses and its baseline."""
