"""Benchmarks of the model alone, of reading and decoding alone, of the whole job, and of how the job scales."""
