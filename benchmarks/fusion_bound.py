"""Bound: how much faster fused layers could be on a CPU, before they are written.

The layers of `mbconv_slice` or `macro_slice` (batch 16, all options, channels_last), both halves of
a search step: forward and backward with and without the gradients of the weights. The variants run
in turn:

- `layers`: the mixed layers as a search runs them; those of `mbconv` have the fused weighted norms.
- `convolutions`: their convolutions and linear layers alone, by PyTorch, nothing else. A fused
  layer that computes them no faster and everything else in no time takes as long.
- `merged`: as before, but what options of a layer have in common is done once: dense convolutions
  that read the layer's input with the same kernel and stride are one with all of their outputs.
- `dense`: `convolutions` without the depthwise ones.
- `peak`: all multiplications and additions of `convolutions` at the rate of a large convolution,
  which no depthwise convolution reaches. (The matrix products of PyTorch are no measure: on AMD's
  processors they have half the rate of its convolutions.)

Times are CPU time of one thread, the ratios are paired: `layers` by each of the others.

    python benchmarks/fusion_bound.py [--config macro_slice] [--rounds 15] [--save]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from bench_mixed_op import interleaved
from results import append_row
from torch import Tensor, nn

from hwnas.architecture import Mixture
from hwnas.config import load_config
from hwnas.nn.mixed_op import MixedBlocks
from hwnas.spaces import build_space
from hwnas.spaces.layers import MixedLayer
from hwnas.supernet.evaluate import frozen

CONFIGS = ("mbconv_slice", "macro_slice")
SIZES = {"input_channels": 1, "height": 28, "width": 28, "classes": 10}
"""Of the slice of Fashion-MNIST that ships."""
PEAK_CHANNELS = 64
"""Channels of the 3x3 convolution that gives the peak, of images as large as those of the slice."""


class Layer(NamedTuple):
    """A layer with the tensors of its evaluation."""

    mixed: MixedBlocks | MixedLayer
    x: Tensor
    gradient: Tensor
    weights: Tensor

    def run(self, train: bool) -> None:
        """Forward and backward; the weights receive gradients if `train`."""
        x, weights = self.x.requires_grad_(), self.weights.requires_grad_(not train)
        wanted = [x, *self.mixed.parameters()] if train else [x, weights]
        out = self.mixed(x, Mixture(weights), 0)
        torch.autograd.grad(out, wanted, self.gradient)


def layers_of(config_name: str, batch: int) -> list[Layer]:
    """The mixed layers of a configuration."""
    config = load_config(config_name)
    options = dict(config.space) if isinstance(config.space, dict) else config.space.model_dump()
    space = build_space(options.pop("name"), options | SIZES)
    supernet = space.supernet().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    found: list[Layer] = []

    def note(module: nn.Module, arguments: tuple[Any, ...], out: Tensor) -> None:
        assert isinstance(module, MixedBlocks | MixedLayer)
        weights = torch.rand(1, space.mask.shape[1])
        found.append(Layer(module, arguments[0].detach(), torch.randn_like(out), weights))

    for module in supernet.modules():
        if isinstance(module, MixedBlocks | MixedLayer):
            module.register_forward_hook(note)
    images = torch.randn(batch, 1, 28, 28).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        supernet(images, Mixture(0.5 * space.mask))
    for layer in found:
        layer.mixed._forward_hooks.clear()
    return found


class Convolution(NamedTuple):
    """A convolution, or a linear layer as one of maps of one pixel, with what it is run on.

    Attributes:
        x: input.
        gradient: of the output.
        weight: (c_out, c_in / groups, kernel, kernel).
        sizes: stride, padding, dilation and groups.
    """

    x: Tensor
    gradient: Tensor
    weight: Tensor
    sizes: tuple[Any, Any, Any, int]

    @property
    def is_dense(self) -> bool:
        """Whether it is not a depthwise convolution."""
        return self.sizes[3] == 1

    @property
    def is_linear(self) -> bool:
        """Whether it stands for a linear layer."""
        return self.x.shape[2:] == (1, 1)

    def operations(self, train: bool) -> int:
        """Multiplications and additions, forward and backward, without those of the padding."""
        stride, padding, dilation, _ = self.sizes
        kernel = torch.ones_like(self.weight[:1, :1])
        taps = F.conv2d(torch.ones_like(self.x[:1, :1]), kernel, None, stride, padding, dilation)
        images, c_out = self.gradient.shape[:2]
        forward = 2 * images * c_out * self.weight.shape[1] * int(taps.sum())
        return forward * (3 if train else 2)


def convolutions_of(layer: Layer) -> list[Convolution]:
    """All convolutions and linear layers of all options."""
    found: list[Convolution] = []

    def note(module: nn.Module, arguments: tuple[Any, ...], out: Tensor) -> None:
        x, gradient, weight = arguments[0], torch.randn_like(out), module.weight.detach()  # type: ignore[operator]
        sizes: tuple[Any, Any, Any, int] = (1, 1), (0, 0), (1, 1), 1
        if isinstance(module, nn.Conv2d):
            sizes = module.stride, module.padding, module.dilation, module.groups  # type: ignore[assignment]
        else:
            x, gradient, weight = (t[..., None, None] for t in (x, gradient, weight))
        found.append(Convolution(x, gradient, weight, sizes))

    parts = [m for m in layer.mixed.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    hooks = [part.register_forward_hook(note) for part in parts]
    with torch.no_grad():
        for candidate in layer.mixed.candidates:
            candidate(layer.x)
    for hook in hooks:
        hook.remove()
    return found


def merged(layer: Layer, convolutions: list[Convolution]) -> list[Convolution]:
    """Dense convolutions of the layer's input with the same kernel and stride as one."""

    def kind(convolution: Convolution) -> tuple[Any, ...]:
        return convolution.weight.shape[2:], convolution.sizes

    def reads_input(convolution: Convolution) -> bool:
        x = convolution.x.flatten(1)
        return convolution.is_dense and torch.equal(x, layer.x.detach().flatten(1))

    found = [c for c in convolutions if not reads_input(c)]
    for _, same in groupby(sorted(filter(reads_input, convolutions), key=kind), key=kind):
        together = list(same)
        gradient = torch.cat([c.gradient for c in together], dim=1)
        weight = torch.cat([c.weight for c in together])
        found.append(together[0]._replace(gradient=gradient, weight=weight))
    return found


def run_alone(c: Convolution, train: bool) -> None:
    """Forward and backward; a linear layer is two products or three."""
    if c.is_linear:
        x, gradient, weight = (t.flatten(1) for t in (c.x, c.gradient, c.weight))
        torch.mm(x, weight.t())
        torch.mm(gradient, weight)
        if train:
            torch.mm(gradient.t(), x)
        return
    stride, padding, dilation, groups = c.sizes
    F.conv2d(c.x, c.weight, None, *c.sizes)
    torch.ops.aten.convolution_backward(
        c.gradient, c.x, c.weight, None, stride, padding, dilation, False, (0, 0), groups,
        (True, train, False),
    )  # fmt: skip


def large_convolution() -> tuple[Callable[[], Tensor], int]:
    """A convolution that has the library's highest rate, and its multiplications and additions."""
    c = PEAK_CHANNELS
    x = torch.randn(16, c, 28, 28).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(c, c, 3, 3).contiguous(memory_format=torch.channels_last)
    return lambda: F.conv2d(x, weight), 2 * 16 * 26 * 26 * 9 * c * c


def halves(layers: list[Layer]) -> dict[str, Callable[[], Any]]:
    """The variants that are run, each of both halves of a search step."""
    parts = [(layer, convolutions_of(layer)) for layer in layers]
    every = [c for _, of_layer in parts for c in of_layer]
    joined = [c for layer, of_layer in parts for c in merged(layer, of_layer)]

    def all_layers() -> None:
        for layer in layers:
            with frozen(layer.mixed):
                layer.run(train=False)
        for layer in layers:
            layer.run(train=True)

    def both(convolutions: list[Convolution]) -> Callable[[], None]:
        def run() -> None:
            for train in (False, True):
                for c in convolutions:
                    run_alone(c, train)

        return run

    return {
        "layers": all_layers,
        "convolutions": both(every),
        "merged": both(joined),
        "dense": both([c for c in every if c.is_dense]),
        "peak": large_convolution()[0],
    }


def measured(config: str, rounds: int, batch: int) -> Iterator[dict[str, Any]]:
    """A row for each bound."""
    torch.manual_seed(0)
    layers = layers_of(config, batch)
    times = interleaved(halves(layers), rounds, "cpu")
    work = sum(
        c.operations(train) for layer in layers for c in convolutions_of(layer) for train in (0, 1)
    )
    times["peak"] = times["peak"] * (work / large_convolution()[1])
    for name, bound in times.items():
        if name != "layers":
            ratios = times["layers"] / bound
            yield {
                "case": config, "batch": batch, "bound": name, "rounds": rounds,
                "layers_ms": float(np.median(times["layers"])),
                "bound_ms": float(np.median(bound)), "ratio": float(np.median(ratios)),
                "low": float(ratios.min()), "high": float(ratios.max()), "gflop": work / 1e9,
            }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", choices=CONFIGS, default=CONFIGS[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--save", action="store_true", help="append to results/fusion_bound.csv")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for row in measured(arguments.config, arguments.rounds, arguments.batch):
        print(" ".join(f"{key}={value}" for key, value in row.items()))
        if arguments.save:
            append_row("fusion_bound", row, quiet=True)


if __name__ == "__main__":
    main()
