"""Draws a world of coloured shapes on textured ground, with exact ground truth: the data of the bundled model."""

from __future__ import annotations

from maskmill.pipeline.shapes.draw import draw
from maskmill.pipeline.shapes.world import CLASSES, IGNORE_LABEL, ShapeClass, allowed_class_ids, classes_document

__all__ = ["CLASSES", "IGNORE_LABEL", "ShapeClass", "allowed_class_ids", "classes_document", "draw"]
