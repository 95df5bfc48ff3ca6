"""The part of an explanation that is about the trained network: where it looks, what it bears."""

from __future__ import annotations

import io
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from hwnas.data import Split
from hwnas.durable import write_atomic
from hwnas.errors import RuntimeMissingError
from hwnas.explaining.attribution import Attributions, attributions
from hwnas.explaining.confidence import calibration
from hwnas.explaining.robustness import disturbances, disturbed
from hwnas.inspection.arrays import read_npz_arrays
from hwnas.pipeline.run import Run
from hwnas.runs import interruption
from hwnas.spaces.networks import Network
from hwnas.tasks.classification import ImageClassification
from hwnas.tasks.proportions import wilson_interval
from hwnas.training.evaluate import predictions

ROBUSTNESS_SAMPLES = 1000
"""Test samples that are disturbed, at most."""
COLUMN_SAMPLES = 200
"""Rows of a table over which the attributions of its columns are averaged."""
SHOWN_EACH = 4
"""Samples predicted correctly that are explained, and as many that are not."""


def trust(run: Run, notes: list[str]) -> dict[str, Any]:
    """What is known of the trained network's predictions, and `attributions.npz` for images.

    Args:
        run: has trained weights.
        notes: gets a line for what is left out.

    Returns:
        `calibration` and `by_class` (None for other tasks than classification), `robustness` and
        `attributions` (None if left out, as for several inputs).
    """
    network, has_several = run.trained_network(), bool(run.problem.dataset.inputs)
    found: dict[str, Any] = {
        "calibration": None,
        "by_class": None,
        "robustness": None if has_several else _robustness(run, network),
        "attributions": None,
    }
    if has_several:
        notes.append("Samples of several inputs are neither disturbed nor explained.")
    if run.problem.dataset.test.inputs.dtype.names:
        notes.append("Networks with several inputs are not tried on disturbed samples.")
        return found
    found["robustness"] = _robustness(run, network)
    if not isinstance(run.problem.task, ImageClassification) or not run.folder.predictions.exists():
        return found
    stored = read_npz_arrays(run.folder.predictions)
    is_right = stored["targets"] == stored["predicted"]
    found["calibration"] = asdict(calibration(stored["confidence"], is_right))
    found["by_class"] = _by_class(stored["targets"], is_right, run.problem.dataset.classes)
    if has_several:
        return found
    try:
        found["attributions"] = _attributions(run, network, stored)
    except RuntimeMissingError as error:
        notes.append(f"Where the network looks is left out: {error}.")
    return found


def _by_class(
    targets: np.ndarray, is_right: np.ndarray, classes: tuple[str, ...]
) -> list[dict[str, Any]]:
    """The accuracy of each class that has samples, with its 95 % interval."""
    rows = []
    for index, name in enumerate(classes):
        of_class = targets == index
        samples = int(of_class.sum())
        if samples:
            share = float(is_right[of_class].mean())
            low, high = wilson_interval(share, samples)
            rows.append(
                {"class": name, "accuracy": share, "low": low, "high": high, "samples": samples}
            )
    return rows


def _robustness(run: Run, network: Network) -> dict[str, Any]:
    """The score on test samples as they are and disturbed, with intervals of accuracies."""
    task, dataset = run.problem.task, run.problem.dataset
    rng = np.random.default_rng(run.seed("disturbances"))
    size = min(ROBUSTNESS_SAMPLES, len(dataset.test))
    split = dataset.test.take(np.sort(rng.permutation(len(dataset.test))[:size]))
    kinds = disturbances(dataset)

    def score(inputs: np.ndarray) -> dict[str, Any]:
        changed = Split(inputs, split.targets)
        value = task.score(predictions(network, changed, dataset, torch.device("cpu")))
        if task.metric != "accuracy":
            return {"score": value, "low": None, "high": None}
        low, high = wilson_interval(value, size)
        return {"score": value, "low": low, "high": high}

    rows = []
    with run.stage("disturb samples") as advance:
        clean = score(split.inputs)
        for done, one in enumerate(kinds, start=1):
            interruption.stop_if_requested()
            inputs = disturbed(split.inputs, dataset, one, run.seed("disturbances"))
            rows.append(asdict(one) | score(inputs))
            advance(done, len(kinds), one.kind)
    return {"metric": task.metric, "samples": size, "clean": clean, "rows": rows}


def _attributions(
    run: Run, network: Network, stored: dict[str, np.ndarray]
) -> dict[str, Any] | None:
    """Where the network looks, by the kind of its inputs."""
    dataset = run.problem.dataset
    if dataset.vocabulary:
        return _of_words(run, network, stored)
    if dataset.input_shape[1:] == (1, 1):
        return _of_columns(run, network, stored)
    places = _explained(stored)
    found = _attributed(run, network, stored, stored["samples"][places])
    file = io.BytesIO()
    np.savez_compressed(
        file,
        allow_pickle=False,
        places=places,
        gradients=found.gradients.astype(np.float32),
        occlusion=found.occlusion.astype(np.float32),
    )
    write_atomic(run.folder.attributions, file.getvalue())
    return {"kind": "maps", "residual": found.residual}


def _explained(stored: dict[str, np.ndarray]) -> np.ndarray:
    """Places of the explained samples among the stored ones, right ones first."""
    samples = stored["samples"]
    is_right = (stored["targets"] == stored["predicted"])[samples]
    right, wrong = np.flatnonzero(is_right), np.flatnonzero(~is_right)
    return np.concatenate([right[:SHOWN_EACH], wrong[:SHOWN_EACH]])


def _attributed(
    run: Run, network: Network, stored: dict[str, np.ndarray], samples: np.ndarray
) -> Attributions:
    """The attributions of the predicted classes of test samples."""
    dataset = run.problem.dataset
    inputs = dataset.normalise(dataset.test.inputs[samples])
    assert isinstance(inputs, torch.Tensor)
    classes = torch.from_numpy(stored["predicted"][samples].astype(np.int64))
    with run.stage("attributions") as advance:
        found = attributions(network, inputs, classes)
        advance(1, 1, f"{len(samples)} samples")
    return found


def _of_columns(run: Run, network: Network, stored: dict[str, np.ndarray]) -> dict[str, Any]:
    """The mean influence of each column of a table."""
    dataset = run.problem.dataset
    samples = np.arange(min(COLUMN_SAMPLES, len(dataset.test)))
    found = _attributed(run, network, stored, samples)
    columns = dataset.reading.get("columns") or [str(i) for i in range(found.gradients.shape[1])]
    influence = np.abs(found.gradients).mean(axis=0), np.abs(found.occlusion).mean(axis=0)
    return {
        "kind": "columns",
        "residual": found.residual,
        "columns": [
            {"column": str(name), "gradients": float(a), "occlusion": float(b)}
            for name, a, b in zip(columns, *influence, strict=True)
        ],
    }


def _of_words(run: Run, network: Network, stored: dict[str, np.ndarray]) -> dict[str, Any]:
    """How much each word of the explained texts speaks for the predicted class."""
    dataset = run.problem.dataset
    samples = stored["samples"][_explained(stored)]
    found = _attributed(run, network, stored, samples)
    texts = []
    for place, sample in enumerate(samples):
        tokens = dataset.test.inputs[sample]
        words = [
            {"word": dataset.vocabulary[token], "gradients": float(a), "occlusion": float(b)}
            for token, a, b in zip(
                tokens, found.gradients[place], found.occlusion[place], strict=True
            )
            if token
        ]
        target, predicted = stored["targets"][sample], stored["predicted"][sample]
        texts.append(
            {
                "class": dataset.classes[target],
                "predicted": dataset.classes[predicted],
                "words": words,
            }
        )
    return {"kind": "words", "residual": found.residual, "texts": texts}
