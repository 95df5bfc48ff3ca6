"""The chapter of a report on how to use the exported model: a short program without hwnas.

The program needs ONNX Runtime and NumPy. Names and shape of the input are those of the model file;
normalisation, vocabulary and classes are read from its metadata.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwnas.data.normalisation import LARGEST
from hwnas.errors import InputError
from hwnas.reporting.html import Section, explained, paragraph, preformatted, section
from hwnas.runs.run_folder import RunFolder

PREFIX = "hwnas."
"""What the names of hwnas's metadata begin with."""
NAMED = 3
"""Classes or columns that a comment of the program names."""


@dataclass(frozen=True)
class ModelFacts:
    """What a program has to know about a model file.

    Attributes:
        name: name of the file.
        input_name: name of the only input.
        shape: shape of one sample, without the batch dimension.
        properties: hwnas's metadata, without the prefix of the names.
    """

    name: str
    input_name: str
    shape: tuple[int, ...]
    properties: dict[str, str]

    @classmethod
    def read(cls, path: Path) -> ModelFacts | None:
        """Read a model; None if there is none yet or if its input is not as hwnas exports it.

        Raises:
            InputError: when the file is damaged.
        """
        import onnx
        from google.protobuf.message import DecodeError

        if not path.is_file():
            return None
        try:
            model = onnx.load(path, load_external_data=False)
        except (OSError, DecodeError) as error:
            raise InputError("not an ONNX model", where=str(path), actual=error) from None
        if len(model.graph.input) != 1:
            return None
        sizes = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim[1:]]
        if not sizes or min(sizes) < 1:
            return None
        name = model.graph.input[0].name
        properties = {p.key: p.value for p in model.metadata_props if p.key.startswith(PREFIX)}
        stated = {key.removeprefix(PREFIX): value for key, value in properties.items()}
        return cls(path.name, name, tuple(sizes), stated)

    @property
    def reads_raw(self) -> bool:
        """Whether the model normalises raw inputs itself."""
        return self.properties.get("preprocess") == "true"

    @property
    def raw_dtype(self) -> str:
        """Type of raw inputs."""
        for dtype in LARGEST:
            if self.properties.get("input_dtype") == f'"{dtype}"':
                return dtype
        # Models of earlier versions do not state it.
        is_deep = self.properties.get("largest_value") == "65535"
        return "uint16" if is_deep else "uint8"

    def listed(self, key: str) -> list[str]:
        """The names in a list of the metadata; empty if there is no such list."""
        try:
            found: Any = json.loads(self.properties.get(key, "[]"))
        except (ValueError, RecursionError):
            return []
        return [str(name) for name in found] if isinstance(found, list) else []


def usage_section(folder: RunFolder) -> list[Section]:
    """The program and what surrounds it; nothing before the export.

    Raises:
        InputError: when the model file is damaged.
    """
    facts = ModelFacts.read(folder.model)
    if facts is None:
        return []
    lines = program(facts)
    return [
        section(
            "How to use this model",
            paragraph("These lines need `onnxruntime` and `numpy` only. Run them in this folder."),
            preformatted("\n".join(lines)),
            explained(
                "The first dimension of the input is the batch, of any size. Everything that the "
                "lines read about the model is in the file's metadata, under names that begin with "
                "`hwnas.`. `hwnas.load_dataset` reads files as the training did.",
                "About these lines",
            ),
        )
    ]


def program(facts: ModelFacts) -> list[str]:
    """The lines of a Python program that loads the model and predicts one sample."""
    task = facts.properties.get("task", "")
    make, show = PROGRAMS.get(task, OWN_PROGRAMS.get(task, (_raw, _shape)))
    if "vocabulary" in facts.properties and "words" not in facts.properties:
        make = _tokens
    needs_words = make in (_words, _question, _dialogue)
    return [
        "import json, re" if needs_words else "import json",
        "import numpy as np",
        "import onnxruntime",
        f"session = onnxruntime.InferenceSession({facts.name!r})",
        "about = session.get_modelmeta().custom_metadata_map",
        *make(facts),
        f"(outputs,) = session.run(None, {{{facts.input_name!r}: {_batch(facts)}}})",
        *show(facts),
    ]


def _read(*keys: str) -> str:
    """The line that reads properties into variables, which are named like them."""
    names = ", ".join(key.removeprefix("input_") for key in keys)
    listed = ", ".join(f'"{key}"' for key in keys)
    return f'{names} = (json.loads(about["hwnas." + key]) for key in ({listed}))'


def _normalised(facts: ModelFacts, dtype: str, comment: str, scale: str = "") -> list[str]:
    """The lines that make the input from a sample of channels and further dimensions."""
    if facts.reads_raw:
        return [
            'classes = json.loads(about["hwnas.classes"])',
            f"inputs = np.zeros({facts.shape}, np.{dtype})  # {comment}",
        ]
    shape = (-1, *(1 for _ in facts.shape[1:]))
    return [
        _read("input_mean", "input_std", "classes"),
        f"sample = np.zeros({facts.shape}, np.{dtype})  # {comment}",
        f"inputs = (sample{scale} - np.reshape(mean, {shape})) / np.reshape(std, {shape})",
    ]


def _batch(facts: ModelFacts) -> str:
    """The expression for a batch of one sample, of the model's type."""
    is_cast = len(facts.shape) > 1 and not facts.reads_raw
    return "inputs[None].astype(np.float32)" if is_cast else "inputs[None]"


def _pixels(facts: ModelFacts) -> list[str]:
    dtype, comment = facts.raw_dtype, "your image: channels, height, width"
    if dtype == "float32":
        return _normalised(facts, dtype, comment)
    return _normalised(facts, dtype, f"{comment}; 0 to {LARGEST[dtype]}", f" / {LARGEST[dtype]}")


def _spectrogram(facts: ModelFacts) -> list[str]:
    comment = "your log-mel spectrogram: 1, bands, frames"
    return _normalised(facts, "float32", comment)


def _columns(facts: ModelFacts) -> list[str]:
    comment = f"your row, one value for each column: {_some(facts.listed('columns'))}"
    lines = _normalised(facts, "float32", comment)
    if "categories" in facts.properties:
        text = "# the last columns are codes: 1 for the first text, 0 for unknown ones, of"
        lines += [text, 'print(list(json.loads(about["hwnas.categories"])))']
    return lines


def _signal(facts: ModelFacts) -> list[str]:
    comment = "your signal: channels, 1, times"
    return _normalised(facts, "float32", comment)


def _of_its_kind(facts: ModelFacts) -> list[str]:
    """The sample of a regression, which may be of any kind."""
    kind = facts.properties.get("input_kind")
    return {'"image"': _pixels, '"signal"': _signal}.get(kind or "", _columns)(facts)


def _words(facts: ModelFacts) -> list[str]:
    (length,) = facts.shape
    lower = ".lower()" if facts.properties.get("lower_case") == "true" else ""
    return [
        _read("vocabulary", "words", "classes"),
        f'found = re.findall(words, "your text"{lower})[:{length}]',
        f"inputs = np.zeros({length}, np.int64)  # 0 pads, 1 stands for unknown words",
        "inputs[: len(found)] = [vocabulary.index(w) if w in vocabulary else 1 for w in found]",
    ]


def _tokens(facts: ModelFacts) -> list[str]:
    return [
        _read("vocabulary", "classes"),
        f"inputs = np.zeros({facts.shape[0]}, np.int64)  # your tokens: indices into vocabulary",
    ]


def _question(facts: ModelFacts) -> list[str]:
    return _pair(facts, '"your question"', '["<separator>"] + cut("your text")')


def _dialogue(facts: ModelFacts) -> list[str]:
    candidates = '["<separator>"] + cut("one reply") + ["<reply>"] + cut("another") + ["<reply>"]'
    return _pair(facts, '"your dialogue"', candidates)


def _pair(facts: ModelFacts, first: str, second: str) -> list[str]:
    (length,) = facts.shape
    lower = ".lower()" if facts.properties.get("lower_case") == "true" else ""
    return [
        _read("vocabulary", "words"),
        f"cut = lambda text: re.findall(words, text{lower})",
        f"found = (cut({first}) + {second})[:{length}]",
        f"inputs = np.zeros({length}, np.int64)  # 0 pads, 1 stands for unknown words",
        "inputs[: len(found)] = [vocabulary.index(w) if w in vocabulary else 1 for w in found]",
    ]


def _span(facts: ModelFacts) -> list[str]:
    return [
        "first, last = outputs[0, :, 0].argmax(axis=1)",
        "print(found[first : last + 1])  # hwnas.inference.spans finds the best first <= last",
    ]


def _best_reply(facts: ModelFacts) -> list[str]:
    return [
        'places = [place for place, word in enumerate(found) if word == "<reply>"]',
        "print(outputs[0, 0, 0, places].argmax())  # the best reply, counted from 0",
    ]


def _raw(facts: ModelFacts) -> list[str]:
    return [f"inputs = np.zeros({facts.shape}, np.float32)  # your sample"]


def _class(facts: ModelFacts) -> list[str]:
    return [f"print(classes[outputs[0].argmax()])  # {_some(facts.listed('classes'))}"]


def _class_of_each_pixel(facts: ModelFacts) -> list[str]:
    named = _some(facts.listed("classes"))
    return [f"print(np.array(classes)[outputs[0].argmax(axis=0)])  # for each pixel: {named}"]


def _class_of_each_position(facts: ModelFacts) -> list[str]:
    named = _some(facts.listed("classes"))
    return [f"print(np.array(classes)[outputs[0].argmax(axis=0)])  # for each position: {named}"]


def _value(facts: ModelFacts) -> list[str]:
    return [
        _read("target_mean", "target_std"),
        "print(outputs[0, 0] * target_std + target_mean)",
    ]


def _next_token(facts: ModelFacts) -> list[str]:
    return ["print(vocabulary[outputs[0, :, 0, -1].argmax()])  # the token that follows the last"]


def _shape(facts: ModelFacts) -> list[str]:
    return ["print(outputs.shape)"]


def _latents(facts: ModelFacts) -> list[str]:
    drawn = f"np.random.default_rng().standard_normal({facts.shape})"
    return [f"inputs = {drawn}  # another image each time"]


def _image(facts: ModelFacts) -> list[str]:
    return ["print(outputs[0].shape)  # the image: channels, height, width; 0 to 1"]


def _maps(facts: ModelFacts) -> list[str]:
    return ["print(outputs.shape)  # scores and boxes by cell; hwnas.tasks.detection decodes them"]


def _some(names: list[str]) -> str:
    """The number of names and the first of them, on one line whatever they hold."""
    shown = ", ".join(repr(name) for name in names[:NAMED])
    more = ", ..." if len(names) > NAMED else ""
    return f"{len(names)}: {shown}{more}" if names else "not stated in the model"


Lines = Callable[[ModelFacts], list[str]]
PROGRAMS: dict[str, tuple[Lines, Lines]] = {
    "image-classification": (_pixels, _class),
    "segmentation": (_pixels, _class_of_each_pixel),
    "detection": (_pixels, _maps),
    "audio-keywords": (_spectrogram, _class),
    "signal-classification": (_signal, _class),
    "table-classification": (_columns, _class),
    "regression": (_of_its_kind, _value),
    "text-classification": (_words, _class),
    "language-modelling": (_tokens, _next_token),
    "question-answering": (_question, _span),
    "next-reply": (_dialogue, _best_reply),
    "image-generation": (_latents, _image),
}
"""How a program makes the inputs of each task, and how it shows the outputs."""
OWN_PROGRAMS: dict[str, tuple[Lines, Lines]] = {
    "sequence-labelling": (_signal, _class_of_each_position),
}
"""The same for tasks of networks of one's own alone; inputs of tokens have lines of their own."""
