"""The published results of NAS-Bench-201 for its 15,625 cells.

Source: Dong & Yang, "NAS-Bench-201: Extending the Scope of Reproducible Neural Architecture
Search", ICLR 2020 (arXiv 2001.00326), with the accuracies after 12 epochs that later work added.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any

import numpy as np

FILE = "nasbench201.npz"
EDGES = ("0>1", "0>2", "1>2", "0>3", "1>3", "2>3")


@dataclass(frozen=True)
class NasBench201:
    """The published results, one entry per cell in the benchmark's order.

    Attributes:
        choices: the operator on each edge of each cell.
        params, macs: (cells,) parameters and multiply-accumulate operations of the whole network
            with C = 16 channels and N = 5 cells per stage.
        accuracy: (cells,) in percent, by `<dataset>_<split>_<epochs>` such as `c10_test_200`;
            datasets c10 and c100, splits val and test, epochs 12 and 200.
    """

    choices: tuple[dict[str, str], ...]
    params: np.ndarray
    macs: np.ndarray
    accuracy: dict[str, np.ndarray]


@lru_cache(maxsize=1)
def load_nasbench201() -> NasBench201:
    """Load the table that ships with hwnas."""
    with (resources.files("hwnas.datasets") / FILE).open("rb") as file:
        arrays: dict[str, Any] = dict(np.load(file, allow_pickle=False))
    names = [str(name) for name in arrays["op_names"]]
    choices = tuple(
        dict(zip(EDGES, (names[index] for index in row), strict=True)) for row in arrays["ops"]
    )
    accuracy = {key: value for key, value in arrays.items() if key.startswith(("c10_", "c100_"))}
    return NasBench201(choices, arrays["params"], arrays["macs"], accuracy)
