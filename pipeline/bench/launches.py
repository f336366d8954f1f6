"""What a computation asks of its device: operators dispatched, by part, and waits for what the device found.

Counted on any device, because a dispatched operator is the same on all: each is one launch of a kernel on a GPU, a few
are two or three. Views and empty tensors launch nothing and are left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from maskmill.model.networks.transfers import Transfers

FREE = ("aten::empty", "aten::new_empty", "aten::_unsafe_view", "aten::lift_fresh", "aten::resize_", "aten::set_")
"""Operators that launch nothing though they are no views, by the beginning of their names."""
WAITING = ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::_unique", "aten::unique")
"""Operators whose result the host must know before it can go on: a number, or a size that depends on the data."""
WHOLE = ("aten::lift_fresh", "aten::upsample_")
"""Composite operators that are counted as one: a resize is one kernel on every device."""
FROM_HOST = "aten::lift_fresh"
"""What ``torch.tensor`` dispatches: numbers from the host's pageable memory, for whose copy a GPU is waited for."""


class LaunchCounter(TorchDispatchMode):
    """Counts what is dispatched in this thread while its ``with`` block runs.

    launches: by part; what is dispatched inside functions that are ``exclude``d is left out.
    waits: by kind: operators of ``WAITING``, indexing with booleans, ``Transfers.fetch``, copies to the host and
    tensors made of the host's numbers.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operators: dict[str, Counter[str]] = {}
        self.waits: Counter[str] = Counter()
        self._parts = ["other"]
        self._excluded = self._uploads = 0
        self._patches = ExitStack()

    @property
    def launches(self) -> dict[str, int]:
        """How many operators were dispatched in each part."""
        return {part: sum(own.values()) for part, own in self.operators.items()}

    def __enter__(self) -> LaunchCounter:
        for owner, name in ((Transfers, "fetch"), (Tensor, "cpu"), (Tensor, "tolist")):
            self._patches.enter_context(mock.patch.object(owner, name, self._waiting(owner, name)))
        upload = mock.patch.object(Transfers, "upload_array", self._uploading(Transfers.upload_array))
        self._patches.enter_context(upload)
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._patches.close()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count one operator, then run it."""
        if func._can_decompose() and not func._schema.name.startswith(WHOLE):
            return self._decomposed(func, args, kwargs or {})
        if not self._excluded:
            self._count(func._schema, args)
        return func(*args, **(kwargs or {}))

    def _decomposed(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a composite operator, counting what it is made of."""
        super().__enter__()
        try:
            return func.decompose(*args, **kwargs)
        finally:
            super().__exit__(None, None, None)

    def _count(self, schema: Any, args: tuple[Any, ...]) -> None:
        name = schema.name
        from_host = name == FROM_HOST and not self._uploads
        if name.startswith(WAITING) or from_host or (name == "aten::index" and _is_boolean(args[1])):
            self.waits[name] += 1
        is_view = any(result.alias_info is not None and not result.alias_info.is_write for result in schema.returns)
        if not is_view and not name.startswith(FREE):
            self.operators.setdefault(self._parts[-1], Counter())[name] += 1

    def _waiting(self, owner: Any, name: str) -> Callable[..., Any]:
        method = getattr(owner, name)

        def counted(*arguments: Any, **named: Any) -> Any:
            if not self._excluded:
                self.waits[f"{owner.__name__}.{name}"] += 1
            return method(*arguments, **named)

        return counted

    def _uploading(self, upload: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """Return ``Transfers.upload_array``, whose copies from pinned memory nobody waits for."""

        def counted(*arguments: Any) -> Tensor:
            self._uploads += 1
            try:
                return upload(*arguments)
            finally:
                self._uploads -= 1

        return counted

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what the block dispatches as ``name``."""
        self._parts.append(name)
        try:
            yield
        finally:
            self._parts.pop()

    def watch(self, owner: object, name: str, part: str) -> None:
        """Count every call of ``owner.name`` as ``part``."""
        method = getattr(owner, name)

        def counted(*arguments: Any, **named: Any) -> Any:
            with self.part(part):
                return method(*arguments, **named)

        setattr(owner, name, counted)

    def exclude(self, owner: object, name: str) -> None:
        """Leave every call of ``owner.name`` out."""
        method = getattr(owner, name)

        def left_out(*arguments: Any, **named: Any) -> Any:
            self._excluded += 1
            try:
                return method(*arguments, **named)
            finally:
                self._excluded -= 1

        setattr(owner, name, left_out)


def _is_boolean(indices: Any) -> bool:
    return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices)
