"""One finished search as a knowledge base keeps it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hwnas.architecture import Architecture
from hwnas.errors import InputError
from hwnas.spaces.base import SearchSpace

Finite = Annotated[float, Field(allow_inf_nan=False)]


class Record(BaseModel):
    """Unknown keys and wrong types are errors, and values cannot change."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ScoredArchitecture(Record):
    """One evaluation.

    Attributes:
        choices: the option taken for each choice.
        score: by the search's evaluator, or of the trained network; higher is better.
        trained: whether the score is that of the finished run's trained network.
    """

    choices: dict[str, str]
    score: Finite
    trained: bool = False


class RememberedSearch(Record):
    """What a search found, on which task and for which device.

    Nothing of the data is in it but the embedding and the kind of the task: no samples, class
    names or paths.

    Attributes:
        created: ISO 8601 date of the record.
        space: name of the search space.
        choices: its choices with their options, which tell equal spaces.
        task: kind of the task, such as `image-classification`.
        embedding: of the data, from `hwnas.knowledge.embedding`.
        device, runtime: where the networks were to run.
        coefficients_ms: the latency model of that device in this space.
        budget_ms: the latency budget.
        evaluator: what gave the scores, as `search.evaluator`.
        evaluations: in their order.
    """

    created: str
    space: str
    choices: dict[str, tuple[str, ...]]
    task: str
    embedding: tuple[Finite, ...]
    device: str
    runtime: str
    coefficients_ms: tuple[Finite, ...]
    budget_ms: Finite
    evaluator: str
    evaluations: tuple[ScoredArchitecture, ...]

    @property
    def digest(self) -> str:
        """A hash of everything but the date, by which equal records are told."""
        content = self.model_dump(mode="json", exclude={"created"})
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def is_of(self, space: SearchSpace) -> bool:
        """Whether the architectures are those of a space, at whatever sizes."""
        return self.space == space.name and self.choices == choices_of(space)

    def scored(self, space: SearchSpace) -> list[tuple[Architecture, float]]:
        """The architectures that the search scored, without the score after the training.

        Raises:
            InputError: when an architecture is not of the space.
        """
        return [
            (space.architecture(one.choices), one.score)
            for one in self.evaluations
            if not one.trained
        ]

    def trained(self, space: SearchSpace) -> list[tuple[Architecture, float]]:
        """The architectures that were trained to the end, with the scores of their networks.

        Raises:
            InputError: when an architecture is not of the space.
        """
        return [
            (space.architecture(one.choices), one.score) for one in self.evaluations if one.trained
        ]

    @classmethod
    def from_line(cls, line: str, where: str) -> RememberedSearch:
        """Read one line of an export.

        Raises:
            InputError: when it is malformed.
        """
        try:
            return cls.model_validate_json(line)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            raise InputError(first["msg"], where=f"{where}: {key}".removesuffix(": ")) from None


def choices_of(space: SearchSpace) -> dict[str, tuple[str, ...]]:
    """The choices of a space with their options."""
    return {choice.name: choice.options for choice in space.choices}


def scored_of(pairs: Sequence[tuple[Architecture, float]], **more: Any) -> list[ScoredArchitecture]:
    """Pairs of an architecture and its score as evaluations."""
    return [ScoredArchitecture(choices=dict(a.options), score=s, **more) for a, s in pairs]
