"""The error of weights that cannot be used; importing it takes no PyTorch, so fetching weights does without, too."""

from __future__ import annotations


class CheckpointError(ValueError):
    """A checkpoint that cannot be used: damaged, not what it should be, or asking for more than arrays."""
