"""The default limits on one image, beyond which it becomes a row of errors."""

from __future__ import annotations

MAX_PIXELS = 178_000_000
"""Images and label maps with more pixels are not decoded. Pillow's hard limit is a little above: 178,956,970 pixels."""
MAX_IMAGE_BYTES = 512 * 2**20
"""Larger files and members of archives are not read."""
