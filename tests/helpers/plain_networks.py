"""Networks without anything of hwnas in them, as somebody else would have written them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """A residual block of two convolutions (He et al., CVPR 2016)."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.shortcut = nn.Sequential()
        if stride > 1 or c_in != c_out:
            shortcut = nn.Conv2d(c_in, c_out, 1, stride, bias=False)
            self.shortcut = nn.Sequential(shortcut, nn.BatchNorm2d(c_out))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.shortcut(x))


class ResNet(nn.Module):
    """The ResNet of 6n + 2 layers for small images; n = 3 is ResNet-20."""

    def __init__(
        self, n: int = 3, channels: int = 3, classes: int = 10, widths: Sequence[int] = (16, 32, 64)
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        before = [widths[0], *widths]
        self.stages = nn.Sequential(
            *(
                nn.Sequential(
                    BasicBlock(before[k], width, 1 + (k > 0)),
                    *(BasicBlock(width, width, 1) for _ in range(n - 1)),
                )
                for k, width in enumerate(widths)
            )
        )
        self.fc = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages(F.relu(self.bn1(self.conv1(x))))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Vgg(nn.Module):
    """VGG-11 with batch norm, whose first layers may be narrower, for images of `size` x `size`.

    Of its five poolings there are as many as bring the images to one pixel.
    """

    def __init__(
        self, channels: int = 3, classes: int = 10, width: int = 64, size: int = 32
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for times in (1, 0, 2, 0, 4, 4, 0, 8, 8, 0, 8, 8, 0):
            if times:
                layers += [
                    nn.Conv2d(channels, times * width, 3, padding=1),
                    nn.BatchNorm2d(times * width),
                    nn.ReLU(inplace=True),
                ]
                channels = times * width
            elif size > 1:
                layers.append(nn.MaxPool2d(2))
                size //= 2
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(channels, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.features(x), 1))


class InvertedResidual(nn.Module):
    """The block of MobileNetV2 (Sandler et al., CVPR 2018)."""

    def __init__(self, c_in: int, c_out: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = c_in * expansion
        layers: list[nn.Module] = []
        if expansion > 1:
            layers += [nn.Conv2d(c_in, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6()]
        layers += [
            nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(),
            nn.Conv2d(hidden, c_out, 1, bias=False),
            nn.BatchNorm2d(c_out),
        ]
        self.layers = nn.Sequential(*layers)
        self.residual = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.residual else self.layers(x)


class MobileNetV2(nn.Module):
    """MobileNetV2 for small images: the first layer and the first stages keep the resolution."""

    STAGES = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1),
              (6, 160, 3, 2), (6, 320, 1, 1))  # fmt: skip

    def __init__(
        self,
        channels: int = 3,
        classes: int = 10,
        width: float = 0.5,
        stages: Sequence[tuple[int, int, int, int]] = STAGES,
    ) -> None:
        super().__init__()
        c_in = max(8, int(32 * width))
        layers: list[nn.Module] = [
            nn.Conv2d(channels, c_in, 3, 1, 1, bias=False),
            nn.BatchNorm2d(c_in),
            nn.ReLU6(),
        ]
        for expansion, c_out, count, stride in stages:
            c_out = max(8, int(c_out * width + 4) // 8 * 8)
            for number in range(count):
                layers.append(InvertedResidual(c_in, c_out, 1 if number else stride, expansion))
                c_in = c_out
        last = int(1280 * width)
        layers += [nn.Conv2d(c_in, last, 1, bias=False), nn.BatchNorm2d(last), nn.ReLU6()]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(last, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean((2, 3)))


class TransformerBlock(nn.Module):
    """Attention and a network of two layers, each added to its input after a layer norm."""

    def __init__(self, channels: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attention = nn.MultiheadAttention(channels, heads, batch_first=True)
        self.norm2 = nn.LayerNorm(channels)
        self.linear1 = nn.Linear(channels, hidden)
        self.linear2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.linear2(F.gelu(self.linear1(self.norm2(x))))


class SmallVit(nn.Module):
    """A vision transformer whose class is read off the mean of its tokens."""

    def __init__(
        self, channels: int = 1, side: int = 28, classes: int = 10, width: int = 32, blocks: int = 2
    ) -> None:
        super().__init__()
        self.patches = nn.Conv2d(channels, width, 4, 4)
        self.blocks = nn.Sequential(*(TransformerBlock(width, 4, 2 * width) for _ in range(blocks)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        return self.head(self.norm(self.blocks(x)).mean(1))


class TextLstm(nn.Module):
    """An embedding, a recurrent layer and a classifier of its last output."""

    def __init__(self, words: int = 50, classes: int = 3, width: int = 16) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, width)
        self.lstm = nn.LSTM(width, 2 * width, batch_first=True)
        self.head = nn.Linear(2 * width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.lstm(self.embedding(tokens))[0][:, -1])


class TwoInputs(nn.Module):
    """Two branches that are concatenated."""

    def __init__(self, width: int = 16, classes: int = 4) -> None:
        super().__init__()
        self.left = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width))
        self.right = nn.Sequential(nn.Conv2d(2, width, 1), nn.ReLU())
        self.join = nn.Conv2d(2 * width, width, 3, padding=1)
        self.head = nn.Linear(width, classes)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        x = torch.cat([F.relu(self.left(left)), self.right(right)], 1)
        return self.head(F.relu(self.join(x)).mean((2, 3)))
