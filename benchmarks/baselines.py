"""What the fused mixed operators are compared with: the same cell in plain PyTorch.

All take a cell's states, mixing weights and edges (`hwnas.kernels.Edge`) and return its nodes; they
compute the same function with the same tensors, in training mode.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from hwnas.kernels import Edge

EdgeFunction = Callable[[Tensor, Tensor, list[Mapping[str, Tensor]], tuple[str, ...], int], Tensor]


def norm(z: Tensor, tensors: Mapping[str, Tensor], prefix: str) -> Tensor:
    """Batch norm with the batch's statistics."""
    running = tensors[f"{prefix}.running_mean"], tensors[f"{prefix}.running_var"]
    return F.batch_norm(z, *running, None, None, True, 0.1)


def operator(x: Tensor, tensors: Mapping[str, Tensor], name: str, stride: int) -> Tensor:
    """One DARTS candidate, as its authors' modules compute it."""
    if name == "max_pool_3x3":
        return norm(F.max_pool2d(x, 3, stride, 1), tensors, "bn")
    if name == "avg_pool_3x3":
        return norm(F.avg_pool2d(x, 3, stride, 1, count_include_pad=False), tensors, "bn")
    if name == "skip_connect":
        if stride == 1:
            return x
        x = F.relu(x)
        halves = (
            F.conv2d(x, tensors["conv1.weight"], stride=2),
            F.conv2d(x[:, :, 1:, 1:], tensors["conv2.weight"], stride=2),
        )
        return norm(torch.cat(halves, 1), tensors, "bn")
    channels, size = x.shape[1], int(name[-1])
    if name.startswith("dil"):
        y = F.conv2d(F.relu(x), tensors["depthwise.weight"], None, stride, size - 1, 2, channels)
        return norm(F.conv2d(y, tensors["pointwise.weight"]), tensors, "bn")
    for stage, step in (("1", stride), ("2", 1)):
        depthwise = tensors[f"depthwise{stage}.weight"]
        y = F.conv2d(F.relu(x), depthwise, None, step, size // 2, 1, channels)
        x = norm(F.conv2d(y, tensors[f"pointwise{stage}.weight"]), tensors, f"bn{stage}")
    return x


def eager_edge(
    x: Tensor, weights: Tensor, tensors: list[Mapping[str, Tensor]], names: tuple[str, ...],
    stride: int,
) -> Tensor:  # fmt: skip
    """The weighted sum of the candidates, one after the other."""
    total = torch.zeros((), dtype=x.dtype, device=x.device)
    for k, name in enumerate(names):
        if name != "none":
            total = total + weights[k] * operator(x, tensors[k], name, stride)
    return total


def composite(depthwise: Tensor, pointwise: Tensor) -> Tensor:
    """The dense kernel (C, C, k, k) of a depthwise and a pointwise convolution in a row."""
    return pointwise * depthwise[:, 0].unsqueeze(0)


def merged_edge(
    x: Tensor, weights: Tensor, tensors: list[Mapping[str, Tensor]], names: tuple[str, ...],
    stride: int,
) -> Tensor:  # fmt: skip
    """Stride 1: depthwise and pointwise merged into dense kernels, branches side by side."""
    of = dict(zip(names, tensors, strict=True))
    weight = dict(zip(names, weights.unbind(), strict=True))
    x_relu = F.relu(x)
    channels = x.shape[1]
    kernels = []
    for name, stage in (("sep_conv_3x3", "1"), ("sep_conv_5x5", "1"), ("dil_conv_3x3", "")):
        t = of[name]
        kernel = composite(t[f"depthwise{stage}.weight"], t[f"pointwise{stage}.weight"])
        if name == "sep_conv_3x3":
            kernel = F.pad(kernel, (1, 1, 1, 1))
        if name == "dil_conv_3x3":
            spread = kernel.new_zeros(channels, channels, 5, 5)
            spread[:, :, ::2, ::2] = kernel
            kernel = spread
        kernels.append(kernel)
    z = F.conv2d(x_relu, torch.cat(kernels), padding=2).chunk(3, dim=1)
    first = [norm(a, of[n], "bn1") for a, n in zip(z[:2], names[4:6], strict=True)]
    wide = of["dil_conv_5x5"]
    kernel = composite(wide["depthwise.weight"], wide["pointwise.weight"])
    z5 = F.conv2d(x_relu, kernel, padding=4, dilation=2)
    seconds = [
        F.pad(composite(of[n]["depthwise2.weight"], of[n]["pointwise2.weight"]), (pad,) * 4)
        for n, pad in (("sep_conv_3x3", 1), ("sep_conv_5x5", 0))
    ]
    y = F.conv2d(F.relu(torch.cat(first, 1)), torch.cat(seconds), padding=2, groups=2)
    y3, y5 = y.chunk(2, dim=1)
    return (
        weight["max_pool_3x3"] * operator(x, of["max_pool_3x3"], "max_pool_3x3", 1)
        + weight["avg_pool_3x3"] * operator(x, of["avg_pool_3x3"], "avg_pool_3x3", 1)
        + weight["skip_connect"] * x
        + weight["sep_conv_3x3"] * norm(y3, of["sep_conv_3x3"], "bn2")
        + weight["sep_conv_5x5"] * norm(y5, of["sep_conv_5x5"], "bn2")
        + weight["dil_conv_3x3"] * norm(z[2], of["dil_conv_3x3"], "bn")
        + weight["dil_conv_5x5"] * norm(z5, of["dil_conv_5x5"], "bn")
    )


def cell(
    inputs: Sequence[Tensor], weights: Tensor, edges: Sequence[Edge], of_edge: EdgeFunction
) -> list[Tensor]:
    """The nodes, edge by edge."""
    states = list(inputs)
    for target in sorted({edge.target for edge in edges}):
        total: Tensor | None = None
        for row, edge in enumerate(edges):
            if edge.target == target:
                tensors = [candidate.tensors for candidate in edge.candidates]
                names = tuple(candidate.name for candidate in edge.candidates)
                function = eager_edge if of_edge is merged_edge and edge.stride == 2 else of_edge
                y = function(states[edge.source], weights[row], tensors, names, edge.stride)
                total = y if total is None else total + y
        assert total is not None
        states.append(total)
    return states[len(inputs) :]
