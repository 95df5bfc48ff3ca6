"""Networks of several sizes that share the weights of one, and are trained together.

A smaller network has a part of each tensor of the whole one. Which part is found by narrowing a
copy whose tensors hold their own positions, so that whatever can be narrowed can also be shared.
Several sizes are trained on shared weights as slimmable networks and Once-for-All are (Yu et al.,
"Slimmable Neural Networks", ICLR 2019, arXiv 1812.08928; Cai et al., ICLR 2020, arXiv 1908.09791),
with the original network as the teacher of all.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

Narrow = Callable[[nn.Module], nn.Module]
"""Returns a copy of a module that is narrowed to one size."""


@dataclass
class SharedNetwork:
    """A smaller network whose weights are parts of those of a whole one.

    Attributes:
        whole: has the weights.
        small: the smaller network; its own weights are not used.
        places: for each parameter of the smaller network the positions in the whole one's, flat.
    """

    whole: nn.Module
    small: nn.Module
    places: Mapping[str, Tensor]

    @classmethod
    def of(cls, whole: nn.Module, narrow: Narrow) -> SharedNetwork:
        """Find which part of a whole network's weights a smaller one has.

        Args:
            whole: the network.
            narrow: makes the smaller one of it; has to keep or drop entries of tensors only.
        """
        numbered = copy.deepcopy(whole).double()
        with torch.no_grad():
            for parameter in numbered.parameters():
                parameter.copy_(torch.arange(parameter.numel()).view(parameter.shape))
        places = {
            name: parameter.detach().long()
            for name, parameter in narrow(numbered).named_parameters()
        }
        return cls(whole, narrow(whole), places)

    def parameters(self) -> dict[str, Tensor]:
        """The smaller network's weights, through which gradients reach the whole one's."""
        shared = dict(self.whole.named_parameters())
        return {name: shared[name].flatten()[index] for name, index in self.places.items()}

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The smaller network's outputs; its batch norms are in the mode of `small`."""
        outputs: Tensor = functional_call(self.small, self.parameters(), inputs)
        return outputs

    @torch.no_grad()
    def separate(self) -> nn.Module:
        """A copy of the smaller network with the weights that it has now."""
        network = copy.deepcopy(self.small)
        for name, value in self.parameters().items():
            network.get_parameter(name).copy_(value)
        return network


def in_turn(networks: int, at_once: int) -> Iterator[tuple[int, ...]]:
    """Which of several networks are trained in each step, each equally often.

    Args:
        networks: how many there are.
        at_once: how many are trained in a step, at most all.
    """
    at_once, first = min(at_once, networks), 0
    while True:
        yield tuple((first + k) % networks for k in range(at_once))
        first = (first + at_once) % networks
