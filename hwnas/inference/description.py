"""What an exported model says of itself: its task, and how its inputs and outputs are to be read.

The properties are untrusted: every one is checked before it is used.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, get_args

import numpy as np

from hwnas.data.arrays import KIND
from hwnas.data.targets import MOST_CLASSES, Kind
from hwnas.data.text import WORD
from hwnas.errors import InputError

PREFIX = "hwnas."
"""What the names of the properties begin with."""
IMAGE_TASKS = ("image-classification", "segmentation", "detection")
QUESTIONS, REPLIES = "question-answering", "next-reply"
TEXT_TASKS = ("text-classification", "language-modelling", QUESTIONS, REPLIES)
CLASS_TASKS = (
    "image-classification",
    "audio-keywords",
    "text-classification",
    "signal-classification",
    "table-classification",
    "multi-input-classification",
)
"""Tasks with one class for each sample."""
IMAGES = "image-generation"
"""The task whose samples are latent vectors, and whose answers are images."""
OWN = "own"
"""The task of networks whose loss and metric are a user's own: only they know the outputs."""
LABELS = "sequence-labelling"
"""The task with one class for each position of a sequence."""
TASKS = {*IMAGE_TASKS, *TEXT_TASKS, *CLASS_TASKS, "regression", LABELS, IMAGES, OWN}
KINDS: dict[str, Kind] = {"signal-classification": "signal", "table-classification": "table"}
"""What a sample is where the task tells."""
TYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(int64)": "int64",
    "tensor(uint8)": "uint8",
    "tensor(uint16)": "uint16",
}
"""The numpy type of each type of input that exported models have."""
RAW_TYPES = {"uint8": 255, "uint16": 65535, "float32": 1}
"""Types of raw samples, and what samples of each are divided by."""


class GraphInput(NamedTuple):
    """An input of a model's graph: its name, its shape with the batch, and its type."""

    name: str
    shape: tuple[Any, ...]
    type: str


@dataclass(frozen=True)
class Description:
    """A model's own description.

    Attributes:
        where: the model, for errors.
        task: a key of `hwnas.tasks.TASKS`.
        input_name: name of the input.
        shape: shape of one sample: (C, H, W), or (L,) for tokens; each of several inputs has the
            axes of its kind, see `hwnas.data.inputs`.
        dtype: type of the model's input.
        raw_dtype: type of raw samples: what cameras, sensors and tables give.
        classes: names of the classes, the tokens, or the one predicted value.
        vocabulary: the text of each token; empty if the inputs are not tokens.
        mean, std: of each channel of the inputs; None where nothing is normalised.
        target: mean and standard deviation of the values that a regression predicts.
        reading: all further properties, such as the columns of a table.
        several: a description of each of several inputs by itself; empty if there is one. All that
            concerns a single input is then that of the first.
    """

    where: str
    task: str
    input_name: str
    shape: tuple[int, ...]
    dtype: str
    raw_dtype: str
    classes: tuple[str, ...]
    vocabulary: tuple[str, ...]
    mean: np.ndarray | None
    std: np.ndarray | None
    target: tuple[float, float]
    reading: Mapping[str, Any]
    several: tuple[Description, ...] = ()

    @classmethod
    def read(
        cls, where: str, properties: Mapping[str, str], inputs: Sequence[GraphInput]
    ) -> Description:
        """Read the properties of a model.

        Args:
            where: the model, for errors.
            properties: all metadata of the model.
            inputs: of its graph; their types are keys of `TYPES`.

        Raises:
            InputError: when a property is missing or malformed.
        """
        stated = {
            key.removeprefix(PREFIX): value
            for key, value in properties.items()
            if key.startswith(PREFIX)
        }
        if len(inputs) == 1:
            return cls._of_one(where, stated, inputs[0])
        entries = _Properties(where, stated).inputs([given.name for given in inputs])
        several = tuple(
            cls._of_one(where, {**stated, **entry}, given)
            for entry, given in zip(entries, inputs, strict=True)
        )
        return replace(several[0], several=several)

    @classmethod
    def _of_one(cls, where: str, stated: Mapping[str, str], given: GraphInput) -> Description:
        """The description of a model by one of its inputs, whose properties are stated."""
        input_name, shape, dtype = given
        task = stated.get("task", "")
        if task not in TASKS:
            raise InputError(
                "the model does not say what it was trained for",
                where=f"{where}: property {PREFIX}task",
                expected="a model that hwnas exported",
                actual=task or None,
            )
        sizes = shape[1:]
        is_text = task in TEXT_TASKS or "vocabulary" in stated
        is_known = dtype in TYPES and sizes and (len(sizes) == 1 or not is_text)
        if not is_known or not all(isinstance(n, int) and n > 0 for n in sizes):
            raise InputError(
                "not an input of a model that hwnas exported",
                where=f"{where}: input {input_name}",
                actual=f"{dtype} {list(shape)}",
            )
        found = _Properties(where, stated)
        is_plain = is_text or (task == OWN and "input_mean" not in stated)
        moments = (None, None) if is_plain else found.moments(sizes[0])
        return cls(
            where=where,
            task=task,
            input_name=input_name,
            shape=sizes,
            dtype=TYPES[dtype],
            raw_dtype="int64" if is_text else found.raw_dtype(task),
            classes=() if task == OWN and "classes" not in stated else found.names("classes"),
            vocabulary=found.names("vocabulary") if is_text else (),
            mean=moments[0],
            std=moments[1],
            target=found.target() if task == "regression" else (0.0, 1.0),
            reading=found.reading(),
        )

    @property
    def has_classes(self) -> bool:
        """Whether a sample has one class."""
        return self.task in CLASS_TASKS

    @property
    def kind(self) -> Kind:
        """What one sample is."""
        if self.task in KINDS:
            return KINDS[self.task]
        stated: Kind | None = self.reading.get(KIND)
        return stated or ("table" if self.task == "regression" else "image")

    @property
    def normalises(self) -> bool:
        """Whether the model itself normalises raw samples."""
        return bool(self.reading["preprocess"])

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of a table, in the model's order."""
        return tuple(self.reading.get("columns", ()))

    @property
    def categories(self) -> Mapping[str, Sequence[str]]:
        """The texts of each column of codes; the code of a text is its place, counted from 1."""
        found: Mapping[str, Sequence[str]] = self.reading.get("categories", {})
        return found


@dataclass(frozen=True)
class _Properties:
    """Reads single properties; each method raises InputError for a malformed one."""

    where: str
    stated: Mapping[str, str]

    def value(self, key: str) -> Any:
        """The property as JSON data; None if it is missing."""
        try:
            return json.loads(self.stated.get(key, "null"))
        except (ValueError, RecursionError):
            raise self.error(key, "JSON") from None

    def error(self, key: str, expected: str) -> InputError:
        return InputError(
            "a malformed property", where=f"{self.where}: property {PREFIX}{key}", expected=expected
        )

    def names(self, key: str) -> tuple[str, ...]:
        found = self.value(key)
        if not isinstance(found, list) or not found or not all(isinstance(n, str) for n in found):
            raise self.error(key, "a list of names")
        return tuple(found)

    def inputs(self, names: Sequence[str]) -> list[dict[str, str]]:
        """The properties of each of several inputs, as those of a model with one input."""
        found = self.value("inputs")
        if not isinstance(found, list) or [
            entry.get("name") if isinstance(entry, dict) else None for entry in found
        ] != list(names):
            raise self.error("inputs", f"an object for each of the inputs {', '.join(names)}")
        return [self._of_input(entry) for entry in found]

    def _of_input(self, entry: Mapping[str, Any]) -> dict[str, str]:
        """One entry of the property `inputs` as properties of a model with one input."""
        if entry.get("kind") == "tokens":
            count = entry.get("tokens")
            if type(count) is not int or not 0 < count <= MOST_CLASSES:
                raise self.error("inputs", f"a number of tokens up to {MOST_CLASSES}")
            return {"vocabulary": json.dumps(list(map(str, range(count))))}
        known = {"input_kind": "kind", "input_dtype": "dtype", "input_mean": "mean"}
        keys = known | {"input_std": "std"}
        return {key: json.dumps(entry[name]) for key, name in keys.items() if name in entry}

    def moments(self, channels: int) -> tuple[np.ndarray, np.ndarray]:
        mean, std = self.numbers("input_mean", channels), self.numbers("input_std", channels)
        if not (std > 0).all():
            raise self.error("input_std", "numbers above 0")
        return mean, std

    def numbers(self, key: str, count: int) -> np.ndarray:
        found = self.value(key)
        if (
            not isinstance(found, list)
            or len(found) != count
            or not all(type(n) in (int, float) and abs(n) < 1e38 for n in found)
        ):
            raise self.error(key, f"{count} finite numbers")
        return np.array(found, np.float32)

    def target(self) -> tuple[float, float]:
        found = self.value("target_mean"), self.value("target_std")
        for key, value in zip(("target_mean", "target_std"), found, strict=True):
            if type(value) not in (int, float) or not abs(value) < 1e38:
                raise self.error(key, "a finite number")
        return float(found[0]), float(found[1])

    def reading(self) -> dict[str, Any]:
        """The properties that say how inputs were made from files."""
        reading: dict[str, Any] = {"preprocess": self.stated.get("preprocess") == "true"}
        if KIND in self.stated:
            reading[KIND] = self.value(KIND)
            if reading[KIND] not in get_args(Kind):
                raise self.error(KIND, ", ".join(get_args(Kind)))
        if "preprocess" in self.stated:
            reading["preprocess"] = self.value("preprocess") is True
        if "columns" in self.stated:
            reading["columns"] = self.names("columns")
        if "categories" in self.stated:
            reading["categories"] = self.categories()
        if "missing" in self.stated:
            found = self.value("missing")
            if not isinstance(found, dict) or not all(
                type(v) in (int, float) and abs(v) < 1e38 for v in found.values()
            ):
                raise self.error("missing", "a number for each column")
            reading["missing"] = found
        if self.stated.get("words") is not None:
            if self.value("words") != WORD.pattern:
                # Another expression could take for ever, or cut words differently.
                raise self.error("words", WORD.pattern)
            reading["words"] = WORD.pattern
        return reading

    def categories(self) -> dict[str, list[str]]:
        found = self.value("categories")
        if not isinstance(found, dict) or not all(
            isinstance(texts, list) and all(isinstance(text, str) for text in texts)
            for texts in found.values()
        ):
            raise self.error("categories", "a list of texts for each of some columns")
        return found

    def raw_dtype(self, task: str) -> str:
        """The type of raw samples; models of earlier versions do not state it."""
        if "input_dtype" in self.stated:
            found = self.value("input_dtype")
            if found not in RAW_TYPES:
                raise self.error("input_dtype", ", ".join(RAW_TYPES))
            return str(found)
        if task in TEXT_TASKS:
            return "int64"
        if task not in IMAGE_TASKS:
            return "float32"
        return "uint16" if "largest_value" in self.stated else "uint8"
