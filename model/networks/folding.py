"""Batch norms folded into the convolutions before them: the same network in fewer passes over its features."""

from __future__ import annotations

from itertools import pairwise
from typing import TypeVar

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.ops import FrozenBatchNorm2d

Network = TypeVar("Network", bound=nn.Module)


def fold_batch_norms(network: Network) -> Network:
    """Fold the batch norms of ``network`` that follow a convolution, and put it into evaluation mode; returns it.

    A batch norm counts as following where it is defined right after a convolution of as many channels, as in all
    residual networks here; one defined before its convolution, or after something else, stays.
    Results differ by rounding only.
    """
    network.eval()
    dtype = next(network.parameters()).dtype
    for module in network.modules():
        children = list(module.named_children())
        for (conv_name, conv), (norm_name, norm) in pairwise(children):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, (nn.BatchNorm2d, FrozenBatchNorm2d)):
                # In float32 at least: the product is rounded once, not in each step.
                folded = fuse_conv_bn_eval(conv.float(), norm.float()).to(dtype)
                setattr(module, conv_name, folded)
                setattr(module, norm_name, nn.Identity())
    return network
