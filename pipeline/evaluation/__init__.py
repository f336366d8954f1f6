"""Offline evaluation: compares committed labels, or other programs' predictions, with ground truth, shard by shard."""
