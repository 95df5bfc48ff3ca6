"""The mixed operator in plain PyTorch: its definition, which the kernels are tested against.

A mixed operator (Liu et al., "DARTS: Differentiable Architecture Search", ICLR 2019, eq. 2) is

    out = sum_k w_k op_k(x)

over the candidate operators of one choice. Batch norms use the batch's own statistics in training
and the running statistics otherwise.

Shapes: x is (N, C_in, H, W), each op_k(x) is (N, C_out, ceil(H / stride), ceil(W / stride)).
The tensors of a candidate have the names of its module's state dict, for example
`depthwise1.weight`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hwnas.kernels.depthwise import dilated_depthwise_conv2d
from hwnas.kernels.flat import FlatTensors
from hwnas.kernels.transforms import active_transform

BATCH_NORM_EPS = 1e-5


class Candidate(NamedTuple):
    """One candidate operator of a choice.

    Attributes:
        name: the operator's name in the literature, for example `sep_conv_3x3`.
        tensors: its parameters and buffers by name; with `FlatTensors` a call costs Python less.
    """

    name: str
    tensors: Mapping[str, Tensor]

    def views(self) -> Mapping[str, Tensor]:
        """The tensors, made all at once if they are flat."""
        return self.tensors.views() if isinstance(self.tensors, FlatTensors) else self.tensors


class Context(NamedTuple):
    """Settings that all candidates of one call share; see `hwnas.kernels.mixed_op`."""

    stride: int
    training: bool
    momentum: float


def batch_norm(z: Tensor, tensors: Mapping[str, Tensor], prefix: str, context: Context) -> Tensor:
    """Batch norm over (N, H, W); updates the running statistics in place in training."""
    return F.batch_norm(
        z,
        tensors[f"{prefix}.running_mean"],
        tensors[f"{prefix}.running_var"],
        tensors.get(f"{prefix}.weight"),
        tensors.get(f"{prefix}.bias"),
        context.training,
        context.momentum,
        BATCH_NORM_EPS,
    )


def max_pool(x: Tensor, tensors: Mapping[str, Tensor], context: Context) -> Tensor:
    """3x3 max pool, followed by a batch norm if the candidate has one, as in DARTS."""
    pooled = F.max_pool2d(x, 3, context.stride, padding=1)
    return batch_norm(pooled, tensors, "bn", context) if tensors else pooled


def avg_pool(x: Tensor, tensors: Mapping[str, Tensor], context: Context) -> Tensor:
    """3x3 average pool over the pixels inside the image, followed by a batch norm if it has one."""
    pooled = F.avg_pool2d(x, 3, context.stride, padding=1, count_include_pad=False)
    return batch_norm(pooled, tensors, "bn", context) if tensors else pooled


def skip_connect(x: Tensor, tensors: Mapping[str, Tensor], context: Context) -> Tensor:
    """The identity at stride 1, FactorizedReduce at stride 2."""
    if context.stride == 1:
        return x
    x = F.relu(x)
    height, width = x.shape[-2:]
    shifted = F.pad(x, (0, width % 2, 0, height % 2))[:, :, 1:, 1:]
    halves = (
        F.conv2d(x, tensors["conv1.weight"], stride=2),
        F.conv2d(shifted, tensors["conv2.weight"], stride=2),
    )
    return batch_norm(torch.cat(halves, dim=1), tensors, "bn", context)


def separable_stage(
    x: Tensor, tensors: Mapping[str, Tensor], context: Context, *, stage: str, stride: int
) -> Tensor:
    """One stage of a separable convolution: ReLU, depthwise, pointwise, batch norm."""
    depthwise = tensors[f"depthwise{stage}.weight"]
    padding = depthwise.shape[-1] // 2
    y = F.conv2d(F.relu(x), depthwise, None, stride, padding, groups=x.shape[1])
    z = F.conv2d(y, tensors[f"pointwise{stage}.weight"])
    return batch_norm(z, tensors, f"bn{stage}", context)


def sep_conv(x: Tensor, tensors: Mapping[str, Tensor], context: Context) -> Tensor:
    """Separable convolution of two stages; the first one has the stride."""
    x = separable_stage(x, tensors, context, stage="1", stride=context.stride)
    return separable_stage(x, tensors, context, stage="2", stride=1)


def dil_conv(x: Tensor, tensors: Mapping[str, Tensor], context: Context) -> Tensor:
    """ReLU, depthwise convolution with dilation 2, pointwise convolution, batch norm."""
    y = dilated_depthwise_conv2d(F.relu(x), tensors["depthwise.weight"], context.stride)
    z = F.conv2d(y, tensors["pointwise.weight"])
    return batch_norm(z, tensors, "bn", context)


def relu_conv_bn(
    x: Tensor, tensors: Mapping[str, Tensor], context: Context, *, padding: int
) -> Tensor:
    """ReLU, dense convolution, batch norm."""
    z = F.conv2d(F.relu(x), tensors["conv.weight"], None, context.stride, padding)
    return batch_norm(z, tensors, "bn", context)


CandidateFunction = Callable[[Tensor, Mapping[str, Tensor], Context], Tensor]

CANDIDATE_FUNCTIONS: dict[str, CandidateFunction] = {
    "max_pool_3x3": max_pool,
    "avg_pool_3x3": avg_pool,
    "skip_connect": skip_connect,
    "sep_conv_3x3": sep_conv,
    "sep_conv_5x5": sep_conv,
    "dil_conv_3x3": dil_conv,
    "dil_conv_5x5": dil_conv,
    "nor_conv_1x1": partial(relu_conv_bn, padding=0),
    "nor_conv_3x3": partial(relu_conv_bn, padding=1),
}
"""The definition of every operator except `none`, which is zero and is left out of the sum."""


def channels_last(x: Tensor) -> Tensor:
    """Convert x to channels_last, in which PyTorch is faster; under a transform return x itself.

    `torch.func.vmap` has no rule for the conversion.
    """
    return x if active_transform() else x.contiguous(memory_format=torch.channels_last)


def mixed_op(
    x: Tensor,
    mixing_weights: Tensor,
    candidates: Sequence[Candidate],
    active: Sequence[int],
    context: Context,
) -> Tensor:
    """The definition of `hwnas.kernels.mixed_op`.

    Args:
        x: (N, C, H, W).
        mixing_weights: (K,).
        candidates: the K operators.
        active: indices of the candidates to evaluate.
        context: stride, mode and momentum.

    Returns:
        The weighted sum of the active candidates; zeros if there are none.
    """
    x = channels_last(x)
    total: Tensor | None = None
    for k in active:
        candidate = candidates[k]
        if candidate.name == "none":
            continue
        y = CANDIDATE_FUNCTIONS[candidate.name](x, candidate.views(), context)
        weight = mixing_weights[k].to(y.dtype)
        total = weight * y if total is None else torch.addcmul(total, weight, y)
    if total is None:
        return torch.zeros_like(x[:, :, :: context.stride, :: context.stride])
    return total
