"""Bound: how much faster fused inverted bottlenecks could be on a CPU, before they are written.

The layers of `mbconv_slice` (batch 16, all options, channels_last), both halves of a search step:
forward and backward with and without the gradients of the weights. Five variants run in turn:

- `layers`: `MixedBlocks` as a search runs them, with the fused weighted norms.
- `convolutions`: their convolutions alone, by PyTorch: 1x1 ones and depthwise ones, nothing else. A
  fused layer that computes them no faster and everything else in no time takes as long.
- `products`: as before, with the 1x1 convolutions as plain matrix products.
- `pointwise`: these matrix products alone.
- `peak`: their multiplications and additions at the rate of a large matrix product, which no
  depthwise convolution reaches.

Times are CPU time of one thread, the ratios are paired: `layers` by each of the others.

    python benchmarks/mbconv_bound.py [--rounds 15] [--save]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from bench_mixed_op import interleaved
from results import append_row
from torch import Tensor

from hwnas.architecture import Mixture
from hwnas.config import load_config
from hwnas.nn.mixed_op import MixedBlocks
from hwnas.ops.mobile import MBConv
from hwnas.spaces import build_space
from hwnas.supernet.evaluate import frozen

SIZES = {"input_channels": 1, "height": 28, "width": 28, "classes": 10}
"""Of the slice of Fashion-MNIST that ships."""
PEAK_SIDE = 768
"""Side of the matrices whose product gives the peak."""


class Layer(NamedTuple):
    """A layer with the tensors of its evaluation."""

    blocks: MixedBlocks
    x: Tensor
    gradient: Tensor
    weights: Tensor

    def run(self, train: bool) -> None:
        """Forward and backward; the weights receive gradients if `train`."""
        x, weights = self.x.requires_grad_(), self.weights.requires_grad_(not train)
        wanted = [x, *self.blocks.parameters()] if train else [x, weights]
        out = self.blocks(x, Mixture(weights), 0)
        torch.autograd.grad(out, wanted, self.gradient)


def layers_of(batch: int) -> list[Layer]:
    """The mixed layers of the configuration."""
    config = load_config("mbconv_slice")
    options = dict(config.space) if isinstance(config.space, dict) else config.space.model_dump()
    name = options.pop("name")
    supernet = build_space(name, options | SIZES).supernet().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    found: list[Layer] = []

    def note(module: torch.nn.Module, arguments: tuple[Any, ...], out: Tensor) -> None:
        assert isinstance(module, MixedBlocks)
        count = len(module.candidates)
        found.append(
            Layer(module, arguments[0].detach(), torch.randn_like(out), torch.rand(1, count))
        )

    hooks = [
        m.register_forward_hook(note) for m in supernet.modules() if isinstance(m, MixedBlocks)
    ]
    space = build_space(name, options | SIZES)
    images = torch.randn(batch, 1, 28, 28).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        supernet(images, Mixture(0.5 * space.mask))
    for hook in hooks:
        hook.remove()
    return found


def convolutions_of(layers: list[Layer]) -> Iterator[tuple[torch.nn.Conv2d, Tensor, Tensor]]:
    """Each convolution of each option with an input and a gradient of its output."""
    for layer in layers:
        for block in layer.blocks.candidates:
            if isinstance(block, MBConv):
                x = layer.x
                for part in (block.expand, block.depthwise, block.project):
                    with torch.no_grad():
                        y = part(x)
                    yield part, x, torch.randn_like(y)
                    x = y


def by_pytorch(part: torch.nn.Conv2d, x: Tensor, g: Tensor, train: bool) -> None:
    """One convolution, forward and backward."""
    weight = part.weight.detach()
    F.conv2d(x, weight, None, part.stride, part.padding, part.dilation, part.groups)
    torch.ops.aten.convolution_backward(
        g, x, weight, None, part.stride, part.padding, part.dilation, False, (0, 0), part.groups,
        (True, train, False),
    )  # fmt: skip


def as_product(part: torch.nn.Conv2d, x: Tensor, g: Tensor, train: bool) -> None:
    """A 1x1 convolution as matrix products of (pixels, channels)."""
    u = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])
    dz = g.permute(0, 2, 3, 1).reshape(-1, g.shape[1])
    weight = part.weight.detach().flatten(1)
    torch.mm(u, weight.t())
    torch.mm(dz, weight)
    if train:
        torch.mm(dz.t(), u)


def operations(part: torch.nn.Conv2d, g: Tensor, train: bool) -> int:
    """Multiplications and additions of a convolution forward and backward."""
    taps = part.weight[0].numel()
    return 2 * g.numel() * taps * (3 if train else 2)


def halves(layers: list[Layer]) -> dict[str, Callable[[], Any]]:
    """The variants that are run, each of both halves of a search step."""
    parts = list(convolutions_of(layers))

    def all_layers() -> None:
        for layer in layers:
            with frozen(layer.blocks):
                layer.run(train=False)
        for layer in layers:
            layer.run(train=True)

    def convolutions(dense: Callable[..., None], *, with_depthwise: bool = True) -> None:
        for train in (False, True):
            for part, x, g in parts:
                if part.groups == 1:
                    dense(part, x, g, train)
                elif with_depthwise:
                    by_pytorch(part, x, g, train)

    a = torch.randn(PEAK_SIDE, PEAK_SIDE)
    return {
        "layers": all_layers,
        "convolutions": lambda: convolutions(by_pytorch),
        "products": lambda: convolutions(as_product),
        "pointwise": lambda: convolutions(as_product, with_depthwise=False),
        "peak": lambda: torch.mm(a, a),
    }


def measured(rounds: int, batch: int) -> Iterator[dict[str, Any]]:
    """A row for each bound."""
    torch.manual_seed(0)
    layers = layers_of(batch)
    times = interleaved(halves(layers), rounds, "cpu")
    work = sum(
        operations(part, g, train) for part, _, g in convolutions_of(layers) for train in (0, 1)
    )
    times["peak"] = times["peak"] * (work / (2 * PEAK_SIDE**3))
    for name in ("convolutions", "products", "pointwise", "peak"):
        ratios = times["layers"] / times[name]
        yield {
            "case": "mbconv_slice", "batch": batch, "bound": name, "rounds": rounds,
            "layers_ms": float(np.median(times["layers"])),
            "bound_ms": float(np.median(times[name])), "ratio": float(np.median(ratios)),
            "low": float(ratios.min()), "high": float(ratios.max()), "gflop": work / 1e9,
        }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--save", action="store_true", help="append to results/mbconv_bound.csv")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for row in measured(arguments.rounds, arguments.batch):
        print(" ".join(f"{key}={value}" for key, value in row.items()))
        if arguments.save:
            append_row("mbconv_bound", row, quiet=True)


if __name__ == "__main__":
    main()
