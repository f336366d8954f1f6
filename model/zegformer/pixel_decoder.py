"""The pixel decoder: a feature pyramid from backbone features to per-pixel mask features (paper section 3.1)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from maskmill.model.zegformer.config import NORM_GROUPS, STAGES


class PixelDecoder(nn.Module):
    """FPN, top-down: 3x3 on res5; at each finer stage 1x1 lateral + nearest-upsampled sum, then 3x3.

    stem_channels: of the backbone's stem, from which one more level of half the width is made, so that masks have
        stride 2; None for masks at stride 4.
    """

    def __init__(
        self, stage_channels: tuple[int, ...], conv_dim: int, mask_dim: int, stem_channels: int | None = None
    ) -> None:
        super().__init__()
        top = STAGES[-1]
        self.laterals = nn.ModuleDict()
        self.outputs = nn.ModuleDict()
        for name, channels in zip(STAGES, stage_channels, strict=True):
            if name != top:
                self.laterals[name] = _conv_norm(channels, conv_dim, kernel_size=1)
            self.outputs[name] = _conv_norm(channels if name == top else conv_dim, conv_dim, kernel_size=3)
        self.from_stem = None
        if stem_channels is not None:
            self.from_stem = nn.ModuleDict(
                {
                    "lateral": _conv_norm(stem_channels, conv_dim // 2, kernel_size=1),
                    "narrow": _conv_norm(conv_dim, conv_dim // 2, kernel_size=1),
                    "output": _conv_norm(conv_dim // 2, conv_dim // 2, kernel_size=3),
                }
            )
        last_dim = conv_dim if stem_channels is None else conv_dim // 2
        self.mask_features = nn.Conv2d(last_dim, mask_dim, kernel_size=3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
        assert self.mask_features.bias is not None
        nn.init.zeros_(self.mask_features.bias)

    def forward(self, features: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return mask features (B, mask_dim, h, w) and the pyramid p2..p5 (B, conv_dim, h_s, w_s).

        The mask features are of res2's size, or the stem's if that is used. Maps are taken out of ``features`` when
        used, so that those nobody else holds need no memory to the end.
        """
        pyramid: dict[str, Tensor] = {}
        y: Tensor | None = None
        for name in reversed(STAGES):
            x = features.pop(name)
            if y is not None:
                # Layer by layer, so that what went in is gone when the next one runs.
                for layer in self.laterals[name].children():
                    x = layer(x)
                x = self._add_coarser(x, y)
            for layer in self.outputs[name].children():
                x = layer(x)
            y = F.relu(x, inplace=True)
            pyramid[name.replace("res", "p")] = y
        if self.from_stem is not None:
            x = self._add_coarser(self.from_stem["lateral"](features.pop("stem")), self.from_stem["narrow"](y))
            y = F.relu(self.from_stem["output"](x), inplace=True)
        return self.mask_features(y), pyramid

    @staticmethod
    def _add_coarser(x: Tensor, coarser: Tensor) -> Tensor:
        # In place: at the finest level each of these maps is the largest tensor of the network.
        return x.add_(F.interpolate(coarser, size=x.shape[-2:], mode="nearest"))


def _conv_norm(in_channels: int, out_channels: int, kernel_size: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False),
        nn.GroupNorm(NORM_GROUPS, out_channels),
    )
