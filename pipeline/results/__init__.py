"""Reads a run back: its rows, classes, status and totals, and the segments to review."""
