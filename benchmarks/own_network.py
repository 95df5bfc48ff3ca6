"""Claim: a network written with `hwnas.nn` is the same search space as the built-in one.

Writes the space of the shipped configuration `mbconv_slice` as an ordinary PyTorch model, and
compares both: the number of architectures, parameters and multiply-accumulates, the time that
tracing takes, and the predicted latencies of random architectures. The operators of both spaces are
measured in the same rounds of one measurement, so that both see the same machine, and the median
of several measurements is taken for each.

    python benchmarks/own_network.py [--architectures 20] [--seconds 0.5] [--repeats 5]
"""

from __future__ import annotations

import argparse
import inspect
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from results import append_row
from torch import Tensor, nn

from hwnas.architecture import Architecture
from hwnas.budget.cost import CostModel
from hwnas.deploy.export import to_onnx
from hwnas.latency_tables.measuring.operator_calls import GROUP_SIZE
from hwnas.latency_tables.measuring.profiler import PROFILE_PROTOCOL, profile_operators
from hwnas.latency_tables.runtimes import create_runtime
from hwnas.latency_tables.table import LatencyTable
from hwnas.nn import Choice
from hwnas.pipeline.profile import operator_module
from hwnas.spaces import SearchSpace, build_space
from hwnas.spaces.traced.space import space_of


def conv(c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    layer = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [layer, nn.BatchNorm2d(c_out)]


class Block(nn.Module):
    def __init__(self, c_in: int, c_out: int, kernel: int, ratio: int, stride: int) -> None:
        super().__init__()
        hidden = ratio * c_in
        self.residual = stride == 1 and c_in == c_out
        expand, project = conv(c_in, hidden, 1), conv(hidden, c_out, 1)
        depthwise = conv(hidden, hidden, kernel, stride, groups=hidden)
        self.layers = nn.Sequential(*expand, nn.ReLU(), *depthwise, nn.ReLU(), *project)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.residual else self.layers(x)


class Network(nn.Module):
    def __init__(self, channels: int = 1, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(*conv(channels, 16, 3, 2), nn.ReLU())
        layers, c_in = [], 16
        for c_out, count, first_stride in ((16, 2, 1), (32, 3, 2), (64, 3, 2)):
            for stride in [first_stride, *[1] * (count - 1)]:
                blocks = {
                    (k, e): Block(c_in, c_out, k, e, stride) for k in (3, 5) for e in (1, 3, 6)
                }
                options = {f"mbconv_{k}x{k}_e{e}": block for (k, e), block in blocks.items()}
                skip = {"skip_connect": nn.Identity()} if blocks[3, 1].residual else {}
                layers.append(Choice(options | skip))
                c_in = c_out
        self.layers = nn.Sequential(*layers)
        self.last = nn.Sequential(*conv(64, 256, 1), nn.ReLU())
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.last(self.layers(self.stem(x))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--architectures", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=0.5, help="for each operator")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each operator")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    started = time.perf_counter()
    own = space_of(Network(), torch.zeros(1, 1, 28, 28))
    tracing_s = time.perf_counter() - started
    options = {"layout": "small", "input_channels": 1, "height": 28, "width": 28}
    shipped = build_space("mbconv", options)
    assert own.size() == shipped.size()
    pairs = same_architectures(own, shipped, arguments.architectures)
    for mine, theirs in pairs:
        assert own.params_and_macs(mine) == shipped.params_and_macs(theirs)
    tables = [measured_together(own, shipped, arguments.seconds) for _ in range(arguments.repeats)]
    of_own, of_shipped = zip(*pairs, strict=True)
    differences = relative(own, of_own, tables, shipped, of_shipped, tables)
    noise = relative(shipped, of_shipped, tables[::2], shipped, of_shipped, tables[1::2])
    lines = sum(len(inspect.getsource(part).splitlines()) for part in (conv, Block, Network))
    append_row(
        "own_network",
        {
            "architectures_of_space": own.size(),
            "lines_of_model": lines,
            "tracing_s": round(tracing_s, 2),
            "compared": len(pairs),
            "measurements": len(tables),
            "mean_difference": float(differences.mean()),
            "largest_difference": float(np.abs(differences).max()),
            "largest_difference_of_shipped_to_itself": float(np.abs(noise).max()),
        },
    )


def same_architectures(
    own: SearchSpace, shipped: SearchSpace, count: int
) -> list[tuple[Architecture, Architecture]]:
    """Random architectures in both spaces."""
    rng = np.random.default_rng(0)
    drawn = [shipped.sample(rng) for _ in range(count)]
    names = [choice.name for choice in own.choices]
    return [
        (own.architecture(dict(zip(names, [option for _, option in a], strict=True))), a)
        for a in drawn
    ]


def relative(
    space: SearchSpace,
    architectures: Sequence[Architecture],
    tables: Sequence[LatencyTable],
    other_space: SearchSpace,
    others: Sequence[Architecture],
    other_tables: Sequence[LatencyTable],
) -> np.ndarray:
    """Relative differences between predicted latencies, (architectures,)."""
    found, _ = CostModel(space, median_of(tables)).predict(architectures)
    expected, _ = CostModel(other_space, median_of(other_tables)).predict(others)
    return found / expected - 1


def measured_together(own: SearchSpace, shipped: SearchSpace, seconds: float) -> LatencyTable:
    """The operators of both spaces, measured in the same rounds where their shapes are equal."""
    spaces = {spec: space for space in (own, shipped) for spec in space.all_operators()}
    return profile_operators(
        spaces,
        runtime=create_runtime("onnxruntime-cpu", 1),
        build=lambda spec: operator_module(spec, spaces[spec]),
        to_onnx=to_onnx,
        batch=1,
        definitions=own.definitions() | shipped.definitions(),
        protocol=replace(PROFILE_PROTOCOL, time_limit_s=GROUP_SIZE * seconds),
    )


def median_of(tables: Sequence[LatencyTable]) -> LatencyTable:
    """For each operator the measurement whose latency is the median."""
    middle = len(tables) // 2
    rows = {
        spec: sorted((t.measurement(spec) for t in tables), key=lambda m: m.p10_ms)[middle]
        for spec in tables[0].specs()
    }
    first = tables[0]
    return LatencyTable.from_measurements(
        rows,
        device=first.device,
        statistic=first.statistic,
        definitions=first.definitions,
        protocol=first.protocol,
    )


if __name__ == "__main__":
    main()
