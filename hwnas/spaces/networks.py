"""Base classes of the two kinds of network that a search space builds."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from torch import Tensor, nn

from hwnas.architecture import Mixture


class Supernet(nn.Module):
    """A network that contains every architecture of a space and evaluates any mixture of them."""

    @abstractmethod
    def forward(self, x: Tensor, mixture: Mixture) -> Tensor:
        """The head's outputs for inputs (N, C, H, W) or tokens (N, L)."""


class Network(nn.Module):
    """The network of a single architecture.

    Attributes:
        drop_path: probability that a branch is dropped during training.
        auxiliary: an additional head that is used in training only, or None.
        choice_modules: for each submodule that exists because of a choice, its path and the name
            of the choice; a space may leave it empty.
    """

    def __init__(self) -> None:
        super().__init__()
        self.drop_path = 0.0
        self.auxiliary: nn.Module | None = None
        self.choice_modules: dict[str, str] = {}

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """The head's outputs for inputs (N, C, H, W) or tokens (N, L)."""

    def forward_with_auxiliary(self, x: Any) -> tuple[Tensor, Tensor | None]:
        """The head's outputs, and those of the auxiliary head if there is one."""
        return self(x), None
