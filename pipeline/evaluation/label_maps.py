"""Label maps from image files: decoding them, checking their values, and resizing them."""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image

from maskmill.pipeline.evaluation.protocol import EvaluationError
from maskmill.pipeline.limits import MAX_PIXELS

_LABEL_MODES = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L", "F")
_GREY_STEPS = {"L;2": 85, "L;4": 17}
"""The factor by which Pillow multiplies the stored values of grey images of 2 and 4 bits, to fill 0..255."""
_EXAMPLES = 8


def decode_label_map(data: bytes, name: str) -> np.ndarray:
    """Decode a PNG, TIFF, BMP or GIF of label values: (H, W) uint8 or uint16, the samples as the file stores them.

    Values above 65535 become 65534, which no class has. Grey of 1, 2 and 4 bits keeps its stored values, and so do
    palette indices and TIFFs whose zero means white.

    name: the map's name in errors. Raises EvaluationError for anything but a single-channel map of integers.
    """
    image = _open(data, name)
    if image.mode not in _LABEL_MODES or image.mode == "F":
        raise EvaluationError(f"{name} is no label map but a {image.mode} image: expected one channel of class ids")
    raw_mode = _raw_mode(image)
    values = _stored(_pixels(image, name), raw_mode)
    if values.dtype in (np.uint8, np.uint16):
        return values
    values = values.astype(np.int64)
    return np.where((values >= 0) & (values <= 65535), values, 65534).astype(np.uint16)


def label_map_size(data: bytes, name: str) -> tuple[int, int]:
    """Return height and width of a label map from its header. Raises EvaluationError where it cannot be opened."""
    image = _open(data, name)
    return image.height, image.width


def decode_segment_ids(data: bytes, name: str) -> np.ndarray:
    """Decode a COCO panoptic PNG: (H, W) int64 of R + 256 G + 65536 B."""
    image = _open(data, name)
    if image.mode not in ("RGB", "RGBA"):
        raise EvaluationError(f"{name} is no panoptic PNG but a {image.mode} image: expected RGB")
    channels = _pixels(image, name).astype(np.int64)
    return channels[..., 0] + 256 * channels[..., 1] + 65536 * channels[..., 2]


def _open(data: bytes, name: str) -> Image.Image:
    try:
        with warnings.catch_warnings():
            # Pillow already warns at half of its limit, so silence the warning; MAX_PIXELS is checked below.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=("PNG", "TIFF", "BMP", "GIF"))
    except Image.DecompressionBombError as error:
        raise EvaluationError(f"{name} is refused: {error}") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise EvaluationError(f"{name} cannot be read as a label map (PNG, TIFF, BMP or GIF)") from error
    if image.width * image.height > MAX_PIXELS:
        raise EvaluationError(f"{name} has {image.width}x{image.height} pixels; at most {MAX_PIXELS} are read")
    return image


def _pixels(image: Image.Image, name: str) -> np.ndarray:
    try:
        pixels = np.asarray(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise EvaluationError(f"{name} is damaged: {error}") from error
    return pixels.astype(np.uint8) if pixels.dtype == bool else pixels


def _raw_mode(image: Image.Image) -> str:
    """Return how the file stores its samples, as Pillow's raw mode ("L;2I"). Call this before the pixels are loaded."""
    tiles = getattr(image, "tile", [])
    arguments = tiles[0].args if tiles else ""
    raw_mode = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return raw_mode if isinstance(raw_mode, str) else ""


def _stored(pixels: np.ndarray, raw_mode: str) -> np.ndarray:
    """Undo Pillow's changes for showing samples as brightness: few bits spread over 0..255, and white turned to 0."""
    kind, _, details = raw_mode.partition(";")
    if kind not in ("1", "L"):
        return pixels
    bits = "".join(filter(str.isdigit, details))
    step = _GREY_STEPS.get(f"{kind};{bits}", 1)
    if "I" in details:
        pixels = (1 if kind == "1" else 255) - pixels
    return pixels // np.uint8(step) if step > 1 else pixels


def refuse_invalid(mapped: np.ndarray, values: np.ndarray, classes: int, name: str, hint: str) -> None:
    """Raise EvaluationError if ``mapped`` holds the id for "invalid" (classes + 1), naming the invalid ``values``."""
    if mapped.size and mapped.max() > classes:
        found = np.unique(values[mapped > classes])
        shown = ", ".join(map(str, found[:_EXAMPLES].tolist()))
        more = f" and {found.size - _EXAMPLES} more" if found.size > _EXAMPLES else ""
        raise EvaluationError(f"{name} holds {shown}{more}, which the protocol's {classes} classes do not have; {hint}")
