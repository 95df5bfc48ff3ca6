"""The kernels of the fused mixed operators in plain PyTorch and autograd, as tests' reference."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hwnas.kernels.backend import Backend
from hwnas.kernels.norms import MEAN, SCALE, SHIFT
from hwnas.kernels.operands import Pools, StageBackward
from hwnas.kernels.plan import Convolution


def nchw(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2)


def nhwc(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).contiguous()


def pad_weight(weight: Tensor, width: int, *, c_in: bool) -> Tensor:
    """Zeros for the channels that pad the layout."""
    missing_in = width - weight.shape[1] if c_in else 0
    return F.pad(weight, (0, 0, 0, 0, 0, missing_in, 0, width - weight.shape[0]))


def convolution(u: Tensor, conv: Convolution, parameters: list[Tensor]) -> Tensor:
    """One convolution of rectified values (N, C, H, W), without its ReLU and its batch norm."""
    weights = [parameters[i] for i in conv.weights]
    width = u.shape[1]
    if conv.kind == "separable":
        depthwise, pointwise = weights
        padding = conv.dilation * (conv.kernel // 2)
        depthwise = pad_weight(depthwise, width, c_in=False)
        u = F.conv2d(u, depthwise, None, conv.stride, padding, conv.dilation, width)
        return F.conv2d(u, pad_weight(pointwise, width, c_in=True))
    if conv.kind == "dense":
        dense = pad_weight(weights[0], width, c_in=True)
        return F.conv2d(u, dense, None, conv.stride, conv.kernel // 2)
    channels = weights[0].shape[1]
    height, wide = u.shape[-2:]
    u = u[:, :channels]
    shifted = F.pad(u, (0, wide % 2, 0, height % 2))[:, :, 1:, 1:]
    halves = F.conv2d(u, weights[0], stride=2), F.conv2d(shifted, weights[1], stride=2)
    return F.pad(torch.cat(halves, dim=1), (0, 0, 0, 0, 0, width - channels))


def normalised(values: Tensor, table: Tensor | None) -> Tensor:
    if table is None:
        return values
    t = table[:, :, None, None, None, :]
    return t[:, SCALE] * (values - t[:, MEAN]) + t[:, SHIFT]


class ReferenceBackend(Backend):
    """Every kernel by its definition, with gradients by autograd.

    Args:
        pad_to: channels are padded to a multiple of it.
    """

    def __init__(self, pad_to: int = 1) -> None:
        self.pad_to = pad_to

    def width(self, channels: int) -> int:
        return -(-channels // self.pad_to) * self.pad_to

    def pools(self, x: Tensor, stride: int) -> Pools:
        x = nchw(x)
        maximum = F.max_pool2d(x, 3, stride, 1)
        mean = F.avg_pool2d(x, 3, stride, 1, count_include_pad=False)
        both = torch.stack((nhwc(maximum), nhwc(mean)))
        return Pools(both[0], both[1], self._statistics(both))

    def pool_values(self, x: Tensor, stride: int) -> Pools:
        return self.pools(x, stride)

    def _statistics(self, values: Tensor) -> Tensor:
        flat = values.flatten(1, 3)
        return torch.stack((flat.mean(1), flat.var(1, unbiased=False)), dim=1)

    def convolve(self, values, table, convolutions, parameters):
        rectified = F.relu(normalised(values, table))
        outputs = torch.stack(
            [nhwc(convolution(nchw(rectified[c.reads or 0]), c, parameters)) for c in convolutions]
        )
        return outputs, self._statistics(outputs)

    def mix(self, terms, weights):
        total = 0.0
        for value, row, index in terms:
            y = row[SCALE] * (value - row[MEAN]) + row[SHIFT]
            total = total + weights[index] * y
        return total

    def reduce(self, terms):
        return torch.stack(
            [
                torch.stack((g.sum((0, 1, 2)), (g * (z - row[MEAN])).sum((0, 1, 2))))
                for g, z, row in terms
            ]
        )

    def convolve_backward(self, values, table, stage: StageBackward, *, needs_input):
        normal = normalised(values, table).detach().requires_grad_()
        leaves = [p.detach().requires_grad_() for p in stage.parameters]
        with torch.enable_grad():
            rectified = F.relu(normal)
            total = 0.0
            for i, conv in enumerate(stage.convolutions):
                a, b, d = stage.coefficients[i]
                dz = a * stage.gradients[i] + b * (stage.outputs[i] - stage.rows[i][MEAN]) + d
                z = nhwc(convolution(nchw(rectified[conv.reads or 0]), conv, leaves))
                total = total + (z * dz).sum()
        used = sorted({i for conv in stage.convolutions for i in conv.weights})
        d_values, *d_weights = torch.autograd.grad(total, [normal, *(leaves[i] for i in used)])
        for i, gradient in zip(used, d_weights, strict=True):
            if (target := stage.weight_gradients[i]) is not None:
                target.copy_(gradient)
        sums = None
        if table is not None:
            sums = self.reduce([(d, v, t) for d, v, t in zip(d_values, values, table, strict=True)])
        return (d_values if needs_input else None), sums

    def pools_backward(self, x, stride, edges, dx):
        leaf = nchw(x).detach().requires_grad_()
        with torch.enable_grad():
            maximum = F.max_pool2d(leaf, 3, stride, 1)
            mean = F.avg_pool2d(leaf, 3, stride, 1, count_include_pad=False)
        for edge in edges:
            g = edge.gradient
            for pooled, part in ((maximum, edge.maximum), (mean, edge.mean)):
                if part is not None:
                    (a, b, d), row = part
                    dz = a * g + b * (nhwc(pooled.detach()) - row[MEAN]) + d
                    (gradient,) = torch.autograd.grad(pooled, leaf, nchw(dz), retain_graph=True)
                    dx += nhwc(gradient)
            if edge.identity is not None:
                dx += edge.identity[0] * g
