"""A ResNet for small images: 6 n + 2 layers in three stages, batch norm, shortcuts without weights."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from matfn.train.recipe import ModelTable


class ResNet(nn.Module):
    """Images `(b, 1, h, w)` to logits `(b, classes)`. With 20 layers and width 16 it has 269 thousand parameters.

    References:
        He, Zhang, Ren, Sun, Deep Residual Learning for Image Recognition, arXiv 1512.03385, section 4.2.
    """

    def __init__(self, table: ModelTable, classes: int) -> None:
        """Args: depth and the width of the first stage from the recipe, the number of classes."""
        super().__init__()
        widths = [table.width, 2 * table.width, 4 * table.width]
        self.stem = nn.Conv2d(1, widths[0], 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(widths[0])
        blocks, before = [], widths[0]
        for width in widths:
            for _ in range((table.layers - 2) // 6):
                blocks.append(Block(before, width))
                before = width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of the classes."""
        x = self.blocks(F.relu(self.norm(self.stem(images))))
        return self.head(x.mean(dim=(2, 3)))

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        """Draw the convolutions anew, N(0, 2 / fan out), and the head, N(0, 1 / fan in); gains and biases stay."""
        for parameter in self.parameters():
            if parameter.ndim == 4:
                fan = parameter.shape[0] * parameter.shape[2] * parameter.shape[3]
                parameter.normal_(0.0, math.sqrt(2 / fan), generator=generator)
        self.head.weight.normal_(0.0, 1 / math.sqrt(self.head.in_features), generator=generator)
        self.head.bias.zero_()


class Block(nn.Module):
    """Two convolutions beside a shortcut, which skips pixels and pads channels where the sizes change."""

    def __init__(self, inputs: int, outputs: int) -> None:
        """Args: channels in and out; more out than in halves the height and the width."""
        super().__init__()
        self.stride, self.more = 1 if inputs == outputs else 2, outputs - inputs
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=self.stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """`(b, inputs, h, w)` to `(b, outputs, h / stride, w / stride)`."""
        h = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.more))
        return F.relu(h + shortcut)


def make_resnet(table: ModelTable, classes: int, *, seed: int) -> ResNet:
    """The network a recipe names, with weights that depend on `seed` alone; the global random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        model = ResNet(table, classes)
    model.reset(torch.Generator().manual_seed(seed))
    return model
