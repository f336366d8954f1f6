"""Offline evaluation: committed labels (or predictions of others) against ground truth, exactly, shard by shard."""
