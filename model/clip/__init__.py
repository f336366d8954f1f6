"""CLIP: loading it, its image tower, its text tower, the sentences it reads."""
