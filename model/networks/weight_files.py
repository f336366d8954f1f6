"""Reads weights that strangers wrote: out come tensors and containers, or a CheckpointError; no code of theirs runs.

``torch.save``'s files go through ``torch.load(weights_only=True)``; plain pickles (detectron2's .pkl) through an
unpickler that knows a short list of names. Numpy's own constructors are on neither list: stand-ins below check what
they build.
"""

from __future__ import annotations

import io
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load as load_safetensors
from torch import Tensor

from maskmill.model.errors import CheckpointError

ZIP_MAGIC = b"PK\x03\x04"
TORCH_LEGACY_MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
"""How the two formats of ``torch.save`` begin: a zip archive, and before PyTorch 1.6 a pickled number."""


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Return the named arrays of a .pth, .pt or .pkl file (told apart by content) as tensors on the CPU.

    They are the file's "model" entry where it has one (its other entries are ignored), else the whole file.

    Raises CheckpointError if the file is damaged, asks for more than arrays, or holds none; OSError if unreadable.
    """
    content = path.read_bytes()
    with _damage_as_checkpoint_error(path):
        if content.startswith((ZIP_MAGIC, TORCH_LEGACY_MAGIC)):
            _refuse_compression(content)
            with torch.serialization.safe_globals([(build, name) for name, build in _NUMPY_NAMES.items()]):
                payload = _torch_load(content)
        else:
            payload = _ArrayUnpickler(io.BytesIO(content), encoding="latin1").load()  # Python 2 wrote bytes as str
    if isinstance(payload, Mapping) and "model" in payload:
        payload = payload["model"]
    if not isinstance(payload, Mapping) or not payload:
        raise CheckpointError(f"{path} holds no state dict (names with arrays), alone or under the key 'model'")
    state = {}
    for key, value in payload.items():
        array = value.to_tensor() if isinstance(value, _Array) else value
        if not isinstance(key, str) or not isinstance(array, Tensor):
            raise CheckpointError(f"{path}: entry {key!r} is no named array but a {type(value).__name__}")
        if not _is_plain(array) or array.nbytes > len(content):
            raise CheckpointError(f"{path}: entry {key!r} is no plain array of values that the file holds")
        state[key] = array.detach()
    return state


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a .safetensors file. Raises CheckpointError if it is damaged, OSError if unreadable."""
    content = path.read_bytes()
    with _damage_as_checkpoint_error(path):
        return load_safetensors(content)


@contextmanager
def _damage_as_checkpoint_error(path: Path) -> Iterator[None]:
    try:
        yield
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is refused, it is damaged or asks for more than arrays: {_reason(error)}"
        ) from error
    except Exception as error:  # Damaged bytes can make a parser raise any exception.
        raise CheckpointError(f"{path} is damaged or no checkpoint: {type(error).__name__}: {error}") from error


def _reason(error: pickle.UnpicklingError) -> str:
    """Why a file is refused, without PyTorch's advice to load it unsafely."""
    text = str(error)
    if not text.startswith("Weights only load failed"):
        return text
    named = re.search(r"GLOBAL ([\w.]+)", text)
    return f"it names {named[1]}, which is no part of an array" if named else "it does what no array needs"


def _refuse_compression(content: bytes) -> None:
    """torch.save never compresses, so a compressed member can only be there to unfold into far more memory."""
    if content.startswith(ZIP_MAGIC):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                raise pickle.UnpicklingError("it has compressed members")


def _is_plain(array: Tensor) -> bool:
    return (
        array.layout == torch.strided and array.device.type == "cpu" and not (array.is_complex() or array.is_quantized)
    )


def _torch_load(content: bytes) -> Any:
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


class _Dtype:
    """Stands in for numpy.dtype: booleans, integers and floats of 1 to 8 bytes."""

    def __init__(self, code: str, *_: object) -> None:
        if not re.fullmatch("b1|[iu][1248]|f[248]", code):
            raise pickle.UnpicklingError(f"an array of type {code!r}; only booleans, integers and floats are weights")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] == ">":
            self.dtype = self.dtype.newbyteorder(">")


class _Array:
    """Stands in for numpy.ndarray: empty until its state arrives."""

    values: np.ndarray

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran_order, data = state
        content = data.encode("latin1") if isinstance(data, str) else data
        self.values = np.frombuffer(content, dtype.dtype).reshape(shape, order="F" if fortran_order else "C")

    def to_tensor(self) -> Tensor:
        return torch.from_numpy(self.values.astype(self.values.dtype.newbyteorder("=")))


class _Constructor:
    """A function that a pickle may call but not alter (unpickling can set attributes of plain functions)."""

    def __init__(self, build: Callable[..., Any]) -> None:
        self.build = build

    def __call__(self, *arguments: Any) -> Any:
        return self.build(*arguments)

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("an attempt to alter a constructor")


def _array_from_buffer(
    content: Any, dtype: _Dtype, shape: tuple[int, ...], order: str, axes: tuple[int, ...] | None = None
) -> _Array:
    flat = np.frombuffer(content, dtype.dtype)
    array = _Array()
    if axes is None:
        array.values = flat.reshape(shape, order="F" if order == "F" else "C")
    else:
        array.values = flat.reshape(shape).transpose(axes)
    return array


def _scalar(dtype: _Dtype, content: bytes | str) -> Any:
    raw = content.encode("latin1") if isinstance(content, str) else content
    return np.frombuffer(raw, dtype.dtype, count=1)[0].item()


def _latin1_bytes(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"text in encoding {encoding!r}; pickled arrays use latin1")
    return text.encode("latin1")


# NumPy renamed its core package in 2.0, and files hold either name.
_NUMPY_NAMES: dict[str, Callable[..., Any]] = {
    "numpy.dtype": _Dtype,
    "numpy.ndarray": _Array,
    **{
        f"numpy.{core}.{name}": build
        for core in ("core", "_core")
        for name, build in {
            "multiarray._reconstruct": _Constructor(lambda *_: _Array()),
            "multiarray.scalar": _Constructor(_scalar),
            "numeric._frombuffer": _Constructor(_array_from_buffer),
        }.items()
    },
}

_PICKLE_NAMES: dict[str, Callable[..., Any]] = {
    **_NUMPY_NAMES,
    "_codecs.encode": _Constructor(_latin1_bytes),
    "collections.OrderedDict": OrderedDict,
    "torch._utils._rebuild_tensor_v2": _Constructor(torch._utils._rebuild_tensor_v2),
    "torch._utils._rebuild_parameter": _Constructor(lambda tensor, *_: tensor),
    # A tensor inside a plain pickle carries its storage as a nested torch file.
    "torch.storage._load_from_bytes": _Constructor(_torch_load),
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        full_name = f"{module}.{name}"
        if full_name not in _PICKLE_NAMES:
            raise pickle.UnpicklingError(f"it names {full_name}, which is no part of an array")
        return _PICKLE_NAMES[full_name]
