"""Segments as numbers: maps, run lengths, areas and outlines."""
