"""Training of grouping, of the small CLIP and of the per-pixel baseline, from the readers the labelling job uses."""
