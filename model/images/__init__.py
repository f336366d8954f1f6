"""Pixels on their way into a network: resizing, normalising, padding."""
