"""The samples of an estimator as files in its run folder, which readers of hwnas read."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hwnas.data.targets import Kind


def write_arrays(
    folder: Path,
    kind: Kind,
    inputs: np.ndarray,
    targets: np.ndarray,
    is_test: np.ndarray,
    classes: Sequence[str] = (),
) -> dict[str, Any]:
    """Write arrays as `data.npz`.

    Args:
        folder: is made if it does not exist.
        kind: what one sample is.
        inputs: the samples, their channels first: (N, C, H, W), (N, C, L) or (N, F).
        targets: indices of classes, or values, (N,).
        is_test: which samples are not trained on, (N,) bool.
        classes: names of the classes; none for values.

    Returns:
        The table `[data]` of a configuration.
    """
    folder.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {
        "x_train": inputs[~is_test],
        "y_train": targets[~is_test],
        "x_test": inputs[is_test],
        "y_test": targets[is_test],
    }
    if classes:
        arrays["classes"] = np.array(classes)
    path = folder / "data.npz"
    np.savez(path, **arrays)
    axes = {} if kind == "table" else {"channels": "first"}
    return {"name": "npz", "path": str(path.absolute()), "kind": kind, **axes}


def write_texts(
    folder: Path, texts: Sequence[str], labels: Sequence[str], is_test: np.ndarray, length: int
) -> dict[str, Any]:
    """Write texts as `data/train.csv` and `data/test.csv`.

    Args:
        folder: is made if it does not exist.
        texts: the samples.
        labels: the class of each, by name.
        is_test: which samples are not trained on, (N,) bool.
        length: words of a sample.

    Returns:
        The table `[data]` of a configuration.
    """
    data = folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    for name, chosen in (("train", ~is_test), ("test", is_test)):
        with (data / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label"])
            writer.writerows((texts[i], labels[i]) for i in np.flatnonzero(chosen).tolist())
    return {"name": "text", "path": str(data.absolute()), "sequence_length": length}
