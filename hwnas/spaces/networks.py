"""Base classes of the two kinds of network that a search space builds."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from torch import Tensor, nn

from hwnas.architecture import Mixture

TRAINING_PARTS = ("auxiliary", "encoder")
"""Attributes of a network that are modules for training only."""


class Supernet(nn.Module):
    """A network that contains every architecture of a space and evaluates any mixture of them."""

    @abstractmethod
    def forward(self, x: Tensor, mixture: Mixture) -> Tensor:
        """The head's outputs for inputs (N, C, H, W) or tokens (N, L).

        Of the batches on which generators are trained, the outputs are `Decoded`.
        """


class Network(nn.Module):
    """The network of a single architecture.

    Attributes:
        drop_path: probability that a branch is dropped during training.
        auxiliary: an additional head that is used in training only, or None.
        encoder: what finds the latent vectors of images, in training only; None in networks that
            are no generators.
        choice_modules: for each submodule that exists because of a choice, its path and the name
            of the choice; a space may leave it empty.
    """

    def __init__(self) -> None:
        super().__init__()
        self.drop_path = 0.0
        self.auxiliary: nn.Module | None = None
        self.encoder: nn.Module | None = None
        self.choice_modules: dict[str, str] = {}

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """The head's outputs for inputs (N, C, H, W) or tokens (N, L).

        Of the batches on which generators are trained, the outputs are `Decoded`.
        """

    def drop_training_parts(self) -> None:
        """Remove what only training needs."""
        for name in TRAINING_PARTS:
            setattr(self, name, None)

    def forward_with_auxiliary(self, x: Any) -> tuple[Tensor, Tensor | None]:
        """The head's outputs, and those of the auxiliary head if there is one."""
        return self(x), None
