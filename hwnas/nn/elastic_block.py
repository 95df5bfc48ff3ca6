"""A choice between inverted bottlenecks that share the weights of the largest one.

Cai et al., "Once-for-All: Train One Network and Specialize it for Efficient Deployment", ICLR 2020
(arXiv 1908.09791), section 3.3. A smaller expansion uses the first hidden channels; a smaller
kernel is a learned linear transform of the centre of the next larger one, the same for all
channels. A supernet has therefore no more weights than its largest network and these transforms.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwnas.architecture import Mixture
from hwnas.ops.mobile import MBConv

Reordering = tuple[Tensor, int, Tensor]
"""A parameter or buffer, one of its dimensions, and the permutation to apply along it."""


class ElasticBlock(nn.Module):
    """The weighted sum of blocks with different kernels and expansions.

    The expansion is computed once for all options, and the depthwise convolution once for each
    kernel size. The options share their batch norms: each is normalised by its own batch
    statistics, while the running statistics are updated by every option that runs.

    Args:
        largest: the block whose weights all options share.
        sizes: kernel size and number of hidden channels of each option.
    """

    largest: MBConv

    def __init__(self, largest: MBConv, sizes: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        self.largest = largest
        self.sizes = tuple(sizes)
        self.kernels = sorted({kernel for kernel, _ in sizes}, reverse=True)
        self.transforms = nn.ParameterDict(
            {str(kernel): torch.eye(kernel**2) for kernel in self.kernels[1:]}
        )

    def forward(self, x: Tensor, mixture: Mixture, choice: int) -> Tensor:
        """The weighted sum of the options, (N, c_in, H, W) to (N, c_out, OH, OW).

        Args:
            x: input.
            mixture: of the whole space.
            choice: the row of this choice.
        """
        block = self.largest
        active = mixture.active_options(choice)
        options = list(range(len(self.sizes)) if active is None else active)
        weights = mixture.weights[choice].to(x.dtype)
        channels = max(self.sizes[k][1] for k in options)
        hidden = F.conv2d(x, block.expand.weight[:channels])
        hidden = block.act1(batch_norm(block.bn1, hidden))
        of_options = torch.stack([weights[k] for k in options])
        out = of_options.sum() * x if block.residual else x.new_zeros(())
        for kernel in self.kernels:
            own = [k for k in options if self.sizes[k][0] == kernel]
            if own:
                y = block.act2(batch_norm(block.bn2, self._depthwise(hidden, kernel)))
            for k in own:
                branch = F.conv2d(y[:, : self.sizes[k][1]], self._projection(k))
                out = out + weights[k] * batch_norm(block.bn3, branch)
        return out

    def _depthwise(self, x: Tensor, kernel: int) -> Tensor:
        stride, channels = self.largest.depthwise.stride, x.shape[1]
        weight = self.depthwise_weight(kernel, channels)
        return F.conv2d(x, weight, None, stride, kernel // 2, groups=channels)

    def _projection(self, option: int) -> Tensor:
        return self.largest.project.weight[:, : self.sizes[option][1]]

    def depthwise_weight(self, kernel: int, channels: int) -> Tensor:
        """The depthwise kernel of the first channels, (channels, 1, kernel, kernel)."""
        weight = self.largest.depthwise.weight[:channels]
        for smaller in self.kernels[1 : self.kernels.index(kernel) + 1]:
            margin = (weight.shape[-1] - smaller) // 2
            centre = weight[..., margin:-margin, margin:-margin].flatten(2)
            flat = F.linear(centre, self.transforms[str(smaller)])
            weight = torch.unflatten(flat, 2, (smaller, smaller))
        return weight

    @torch.no_grad()
    def weights_of(self, option: int) -> dict[str, Tensor]:
        """The state dict of the block that an option stands for."""
        kernel, channels = self.sizes[option]
        block = self.largest
        state = {"expand.weight": block.expand.weight[:channels]}
        state["depthwise.weight"] = self.depthwise_weight(kernel, channels)
        state["project.weight"] = self._projection(option)
        for name, count in (("bn1", channels), ("bn2", channels), ("bn3", None)):
            for key, value in getattr(block, name).state_dict().items():
                state[f"{name}.{key}"] = value[:count] if value.ndim else value
        return state

    @torch.no_grad()
    def importance_order(self, channels: int) -> list[Reordering]:
        """Sort the first hidden channels by importance (section 3.3, elastic width).

        The importance of a channel is the L1 norm of its weights in the projection. The outputs of
        all options that have at least `channels` hidden channels do not change.

        Args:
            channels: hidden channels of the smallest expansion trained so far, those to be sorted.

        Returns:
            The permutations to apply to the block's tensors.
        """
        block = self.largest
        importance = block.project.weight.abs().sum(dim=(0, 2, 3))
        order = torch.arange(len(importance), device=importance.device)
        order[:channels] = importance[:channels].argsort(descending=True, stable=True)
        tensors: list[Tensor] = [block.expand.weight, block.depthwise.weight]
        for norm in (block.bn1, block.bn2):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            tensors += [norm.weight, norm.bias, norm.running_mean, norm.running_var]
        return [(block.project.weight, 1, order), *((tensor, 0, order) for tensor in tensors)]


def batch_norm(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """Apply the first channels of a batch norm, as many as the input has."""
    count = x.shape[1]
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return F.batch_norm(
        x,
        norm.running_mean[:count],
        norm.running_var[:count],
        norm.weight[:count],
        norm.bias[:count],
        norm.training,
        norm.momentum or 0.0,
        norm.eps,
    )
