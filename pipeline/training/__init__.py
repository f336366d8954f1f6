"""Training: class-agnostic grouping, the small CLIP and the per-pixel baseline, from the readers the labelling job uses."""
