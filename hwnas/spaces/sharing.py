"""Supernets in which all architectures share the weights of the largest network."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from hwnas.architecture import Architecture
from hwnas.nn.elastic_block import Reordering
from hwnas.spaces.networks import Supernet


class SharedSupernet(Supernet):
    """A supernet from which the network of any architecture can inherit trained weights.

    Attributes:
        phases: number of training phases after the first, in each of which smaller architectures
            are added (progressive shrinking); 0 if the space does not define any.
    """

    phases: int = 0

    @abstractmethod
    def weights_of(self, architecture: Architecture) -> dict[str, Tensor]:
        """The state dict that the network of an architecture inherits.

        With it the network computes the same as the supernet with the architecture's one-hot
        mixture, in training and in evaluation mode.
        """

    def at_phase(self, architecture: Architecture, phase: int) -> Architecture:
        """The smallest architecture of a phase that is at least as large as the given one.

        Args:
            architecture: any architecture of the space.
            phase: from 0, in which only the largest networks are trained, to `phases`, in which
                all are.
        """
        return architecture

    def reordering(self, phase: int) -> list[Reordering]:
        """Permutations of weights to apply before a phase begins.

        They move the most important weights to where the smaller architectures of the phase find
        them, and leave the outputs of the previous phase's architectures unchanged.
        """
        return []
