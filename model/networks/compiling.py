"""Networks compiled for the machine they run on: fewer and fused kernels, the same result but for rounding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def compile_network(network: Callable[..., Any], example: Tensor, **options: Any) -> Callable[..., Any]:
    """Return ``network`` compiled with its weights as constants, after a call with ``example``.

    So whatever is missing, a C++ compiler above all, shows here and not with the first image: raises what
    ``torch.compile`` raises. options: named arguments of the calls to come.
    Inputs of a second size are compiled for once more, then for any size.
    """
    compiled = torch.compile(network, options={"freezing": True})
    with torch.inference_mode():
        compiled(example, **options)
    return compiled
