"""The residual backbone: images in, feature maps out (torchvision's blocks, widths free)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops import FrozenBatchNorm2d

from maskmill.model.zegformer.config import STAGES, BackboneConfig


class Backbone(nn.Module):
    """ResNet without its classifier; stride of a stage sits in the 3x3 convolution of its first block.

    with_stem: also give the stem's output, which is large.
    """

    def __init__(self, config: BackboneConfig, *, with_stem: bool = False) -> None:
        super().__init__()
        self._with_stem = with_stem
        norm = FrozenBatchNorm2d if config.norm == "frozen" else nn.BatchNorm2d
        self.conv1 = nn.Conv2d(3, config.stem_channels, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = norm(config.stem_channels)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        channels = config.stem_channels
        self.stages = nn.ModuleDict()
        for index, name in enumerate(STAGES):
            self.stages[name] = _stage(config, index, channels, norm)
            channels = config.stage_channels[index]
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Map normalised images (B, 3, H, W) to res2..res5, (B, C_s, H/s, W/s) at strides s = 4, 8, 16, 32.

        With the stem there is "stem" as well, at stride 2. Sizes are rounded up where a stride does not divide H or W.
        """
        stem = self.relu(self.bn1(self.conv1(images)))
        features = {"stem": stem} if self._with_stem else {}
        x = self.maxpool(stem)
        del stem  # It is as large as any other feature map, and nothing reads it any more.
        for name, stage in self.stages.items():
            x = stage(x)
            features[name] = x
        return features


def _stage(config: BackboneConfig, index: int, in_channels: int, norm: Callable[..., nn.Module]) -> nn.Sequential:
    out_channels = config.stage_channels[index]
    first_stride = 1 if index == 0 else 2
    blocks: list[nn.Module] = []
    for position in range(config.layers[index]):
        stride = first_stride if position == 0 else 1
        shortcut = None
        if stride != 1 or in_channels != out_channels:
            shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride, bias=False), norm(out_channels)
            )
        if config.block == "basic":
            blocks.append(BasicBlock(in_channels, out_channels, stride, shortcut, norm_layer=norm))
        else:
            planes = out_channels // Bottleneck.expansion
            # torchvision states a bottleneck's width as planes x base_width / 64.
            base_width = 64 * config.bottleneck_widths[index] // planes
            blocks.append(Bottleneck(in_channels, planes, stride, shortcut, base_width=base_width, norm_layer=norm))
        in_channels = out_channels
    return nn.Sequential(*blocks)
