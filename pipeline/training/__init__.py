"""Trains grouping, the small CLIP and the per-pixel baseline on data that the labelling job's readers read."""
