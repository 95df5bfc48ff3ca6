"""The two forms of a decision: an `Architecture` has made every choice, a `Mixture` weighs them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, device

from hwnas.errors import InputError

SCHEMA = 1


@dataclass(frozen=True)
class Architecture:
    """One option for each choice of a search space; hashable, and readable as JSON.

    Attributes:
        space: the name of the search space.
        options: the option taken for each choice, in the space's order of choices.
    """

    space: str
    options: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, space: str, options: Mapping[str, str]) -> Architecture:
        """Build from a mapping of choice name to option name."""
        return cls(space, tuple(options.items()))

    def __getitem__(self, choice: str) -> str:
        return dict(self.options)[choice]

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self.options)

    def to_json(self) -> dict[str, Any]:
        """The keys `schema`, `space` and `choices` of an `architecture.json`."""
        return {"schema": SCHEMA, "space": self.space, "choices": dict(self.options)}

    @classmethod
    def from_json(cls, document: Any, where: str = "architecture") -> Architecture:
        """Read what `to_json` wrote; other keys are ignored.

        Raises:
            InputError: when the document is no architecture, or of another schema.
        """
        if not isinstance(document, dict):
            raise InputError("not an architecture", where=where, expected="a JSON object")
        if document.get("schema") != SCHEMA:
            raise InputError(
                "unknown schema", where=where, expected=SCHEMA, actual=document.get("schema")
            )
        space, choices = document.get("space"), document.get("choices")
        if not isinstance(space, str):
            raise InputError("missing name", where=f"{where}: space", expected="a string")
        if not isinstance(choices, dict) or not all(isinstance(v, str) for v in choices.values()):
            raise InputError(
                "malformed", where=f"{where}: choices", expected="an object of option names"
            )
        return cls.of(space, choices)

    @classmethod
    def load(cls, path: str | Path) -> Architecture:
        """Read an `architecture.json`.

        Raises:
            InputError: when the file is missing, is no JSON or no architecture.
        """
        return cls.from_json(read_architecture_file(path), str(path))


def read_architecture_file(path: str | Path) -> Any:
    """The JSON document in a file.

    Raises:
        InputError: when the file is missing or is no JSON.
    """
    try:
        return json.loads(Path(path).read_text("utf-8-sig"))
    except FileNotFoundError:
        raise InputError("no such file", where=str(path), mend="`hwnas search` writes it") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError("not JSON", where=str(path), actual=error) from None


@dataclass(frozen=True)
class Mixture:
    """The mixing weights of all choices of a space, as one tensor.

    One-hot rows are an architecture (a DARTS edge that is not kept is one-hot on `none`), soft
    rows a relaxation; rows need not sum to 1.

    Attributes:
        weights: (choices, max_options); zero where a choice has fewer options.
        active: for each choice the options to evaluate, or None for all; the rest weigh zero.
    """

    weights: Tensor
    active: tuple[tuple[int, ...], ...] | None = None

    def detach(self) -> Mixture:
        """The same weights, cut off from the gradient."""
        return Mixture(self.weights.detach(), self.active)

    def to(self, target: Tensor | device) -> Mixture:
        """The same weights on a device, or on a tensor's and in its type."""
        return Mixture(self.weights.to(target), self.active)

    def active_options(self, choice: int) -> tuple[int, ...] | None:
        """Options of one choice to evaluate, or None for all."""
        return None if self.active is None else self.active[choice]
