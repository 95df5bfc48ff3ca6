"""Supernets whose architectures are parts of one set of weights, which networks can inherit."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from hwnas.architecture import Architecture
from hwnas.nn.elastic_block import Reordering
from hwnas.spaces.networks import Supernet


class SharedSupernet(Supernet):
    """A supernet that has the weights of every network.

    Attributes:
        phases: steps in which smaller architectures join the largest ones in training
            (progressive shrinking); 0 where none are defined.
    """

    phases: int = 0

    @abstractmethod
    def weights_of(self, architecture: Architecture) -> dict[str, Tensor]:
        """The state of an architecture's network: it computes what the supernet does with the
        architecture's mixture, in evaluation mode and in training.
        """

    def at_phase(self, architecture: Architecture, phase: int) -> Architecture:
        """The next larger architecture that is trained in a phase.

        Args:
            architecture: any.
            phase: 0, of the largest networks alone, to `phases`, of all.
        """
        return architecture

    def reordering(self, phase: int) -> list[Reordering]:
        """What is put in another order before a phase begins, so that the parts that join are the
        most important ones; no architecture of the phase before is changed by it.
        """
        return []
