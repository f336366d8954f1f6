"""Segments as maps, run lengths, areas, boxes and outlines."""
