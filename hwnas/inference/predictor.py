"""An exported model that answers raw samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hwnas.data.replies import REPLY
from hwnas.errors import InputError
from hwnas.inference.boxes import Detections, decode_boxes
from hwnas.inference.description import (
    IMAGES,
    OWN,
    QUESTIONS,
    REPLIES,
    Description,
    GraphInput,
)
from hwnas.inference.inputs import feeds_of, pair_words, prepare
from hwnas.inference.spans import best_position, best_spans

BATCH = 256
"""Samples in one call of the model."""


class Predictor:
    """A model that hwnas exported, run by ONNX Runtime on the CPU.

    Attributes:
        description: what the model says of itself.
    """

    def __init__(self, model: str | Path | bytes, threads: int = 0) -> None:
        """Load a model.

        Args:
            model: the file, or its content.
            threads: threads of ONNX Runtime; its own choice if 0.

        Raises:
            InputError: when it is not a model that hwnas exported.
        """
        import onnxruntime

        where = "the model" if isinstance(model, bytes) else str(model)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4
        try:
            self._session = onnxruntime.InferenceSession(
                model if isinstance(model, bytes) else str(model),
                options,
                providers=["CPUExecutionProvider"],
            )
        except Exception as error:  # its exceptions have no common base class
            raise InputError(
                "ONNX Runtime cannot load the model", where=where, actual=str(error)
            ) from None
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if not inputs or len(outputs) != 1:
            raise InputError(
                "not a model that hwnas exported",
                where=where,
                expected="inputs and one output",
                actual=f"{len(inputs)} and {len(outputs)}",
            )
        properties = self._session.get_modelmeta().custom_metadata_map
        given = [GraphInput(one.name, tuple(one.shape), one.type) for one in inputs]
        self.description = Description.read(where, properties, given)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; of language models the tokens, of regression the one value."""
        return self.description.classes

    def outputs(self, samples: Any) -> np.ndarray:
        """The model's outputs for raw samples.

        Args:
            samples: see `hwnas.inference.inputs.feeds_of`.

        Returns:
            (N, ...) float32: what the model puts out, such as logits.

        Raises:
            InputError: samples that do not fit the model.
        """
        feeds = feeds_of(samples, self.description)
        found = [
            self._session.run(None, {n: x[start : start + BATCH] for n, x in feeds.items()})[0]
            for start in range(0, len(next(iter(feeds.values()))), BATCH)
        ]
        outputs: np.ndarray = np.concatenate(found).astype(np.float32)
        return outputs

    def predict(self, samples: Any) -> np.ndarray | list[Detections]:
        """The answers to raw samples.

        Args:
            samples: as the training data were; see `hwnas.inference.inputs.feeds_of`.

        Returns:
            Names of classes (N,), or (N, T) for each position of a sequence; of segmentation the
            index of each pixel's class (N, H, W); of detection the `Detections` of each image, in
            pixels of the model's input; of language models the token (N,) that follows each text;
            of regression the values (N,); of questions the answers (N,); of dialogues the number
            (N,) of the best candidate, counted from 0; of generators images (N, C, H, W) uint8;
            with a loss of one's own the model's outputs (N, ...).

        Raises:
            InputError: samples that do not fit the model.
        """
        outputs, model = self.outputs(samples), self.description
        if model.task == "detection":
            return decode_boxes(outputs, (model.shape[1], model.shape[2]))
        if model.task == "regression":
            mean, std = model.target
            values: np.ndarray = outputs[:, 0] * np.float32(std) + np.float32(mean)
            return values
        if model.task == IMAGES:
            return pixels_of(outputs)
        if model.task == OWN:
            return outputs
        if model.task == QUESTIONS:
            return self._answers_in_texts(outputs, samples)
        if model.task == REPLIES:
            tokens = prepare(samples, model)
            return best_position(outputs[:, 0, 0], tokens == model.vocabulary.index(REPLY))
        if model.task == "segmentation":
            classes: np.ndarray = outputs.argmax(axis=1)
            return classes
        logits = self._next_tokens(outputs, samples)
        names: np.ndarray = np.array(self.answers)[logits.argmax(axis=1)]
        return names

    def _answers_in_texts(self, outputs: np.ndarray, samples: Any) -> np.ndarray:
        """The words (N,) between the best first and last position of each sample."""
        model = self.description
        if isinstance(samples, np.ndarray):
            words = [[model.vocabulary[token] for token in row] for row in samples.tolist()]
        else:
            words = pair_words(samples, model)
        spans = best_spans(outputs[:, :, 0]).tolist()
        answers = [" ".join(w[a : b + 1]) for w, (a, b) in zip(words, spans, strict=True)]
        return np.array(answers)

    def predict_proba(self, samples: Any) -> np.ndarray:
        """The probabilities of the classes.

        Args:
            samples: see `predict`.

        Returns:
            (N, K) float32, in the order of `classes`; of segmentation (N, K, H, W), of sequences
            (N, K, T), of language models (N, tokens) of the next token.

        Raises:
            InputError: samples that do not fit the model, or a task without probabilities.
        """
        model = self.description
        if model.task in ("detection", "regression", QUESTIONS, REPLIES, IMAGES, OWN):
            raise InputError(
                f"the task {model.task} has no probabilities of classes",
                where=model.where,
                mend="use `predict`",
            )
        return softmax(self._next_tokens(self.outputs(samples), samples))

    @property
    def answers(self) -> tuple[str, ...]:
        """What the probabilities are of: the classes, or of language models the tokens."""
        return self.description.vocabulary if self._is_language else self.classes

    @property
    def _is_language(self) -> bool:
        return self.description.task == "language-modelling"

    def _next_tokens(self, outputs: np.ndarray, samples: Any) -> np.ndarray:
        """Of language models the logits of what follows the last token of each text."""
        if not self._is_language:
            return outputs
        texts = [samples] if isinstance(samples, str) else samples
        (length,) = self.description.shape
        last = [min(len(text), length) - 1 if isinstance(text, str) else -1 for text in texts]
        found: np.ndarray = outputs[np.arange(len(outputs)), :, 0, last]
        return found


def pixels_of(images: np.ndarray) -> np.ndarray:
    """Generated images, 0 to 1, as uint8."""
    pixels: np.ndarray = np.rint(255 * np.clip(images, 0, 1)).astype(np.uint8)
    return pixels


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities along the second dimension, without overflow."""
    scores = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: np.ndarray = scores / scores.sum(axis=1, keepdims=True)
    return probabilities
