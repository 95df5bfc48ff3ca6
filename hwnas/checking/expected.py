"""Outputs that are known to be correct, stored in an npz file, as a reference for samples."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from hwnas.checking.inputs.samples import Samples
from hwnas.checking.outputs import Output, Outputs, Predict, arrays_of
from hwnas.checking.parity import Parity, compare_outputs
from hwnas.checking.references import Reference
from hwnas.errors import InputError
from hwnas.inspection.arrays import read_npz_arrays
from hwnas.inspection.process import Inspection

ITEM = re.compile(r"(?P<name>.*)\[(?P<index>\d+)\]")
"""Name of the array that holds an item of a sequence, as in `y[0]`."""


def stored_reference(path: Path, model: Inspection, samples: Samples | None) -> Reference:
    """Use stored outputs as the reference; they belong to the samples in their order.

    Args:
        path: an inspected npz file with an array for each output, under the output's name. With
            several samples, the samples lie along the first dimension. The items of a sequence are
            `NAME[0]`, `NAME[1]` ..., for one sample only.
        model: the model that has to give these outputs.
        samples: its inputs.

    Raises:
        InputError: when there are no samples, or the arrays do not fit the outputs or the samples.
    """
    where = str(path)
    if samples is None:
        raise InputError("stored outputs need their inputs", where=where, mend="add --data")
    arrays = read_npz_arrays(path)
    outputs = {value.name: _stored(arrays, value.name, where) for value in model.outputs}
    known = {name for name in arrays if name in outputs or _item_of(name) in outputs}
    if known != set(arrays):
        raise InputError(
            "the model has no such output",
            where=where,
            expected=", ".join(outputs),
            actual=", ".join(sorted(set(arrays) - known)),
        )
    for name, output in outputs.items():
        lengths = [len(array) if array.ndim else 1 for array in arrays_of(output)]
        is_divided = not isinstance(output, tuple) and lengths[0] % samples.count == 0
        if samples.count > 1 and not is_divided:
            raise InputError(
                "the array does not have a part for each sample",
                where=f"{where}: {name}",
                expected=f"a multiple of {samples.count} along the first dimension",
                actual=lengths[0] if lengths else "nothing",
            )

    def refuse(feeds: object) -> Outputs:
        raise AssertionError("stored outputs are no function of the inputs")

    expected = partial(_expected, outputs, samples.count)
    return Reference("reference", refuse, expected=expected)


def compare_with_stored(
    reference: Reference, predict: Predict, samples: Samples, where: str, least_sqnr_db: float
) -> Parity:
    """Run a model on all samples, one at a time, and compare its outputs with the stored ones.

    Args:
        reference: of `stored_reference`.
        predict: runs the model.
        samples: the samples.
        where: the model file, for errors.
        least_sqnr_db: see `hwnas.checking.parity.compare`.

    Raises:
        InputError: when the outputs differ in number, kind of element or number of dimensions.
    """
    assert reference.expected is not None
    theirs, ours = [], []
    for index in range(samples.count):
        chosen = np.array([index])
        theirs.append([*reference.expected(chosen).values()])
        ours.append([*predict(samples.take(chosen)).values()])
    outputs = range(len(theirs[0]))
    return compare_outputs(theirs, ours, where, least_sqnr_db=least_sqnr_db, variable=outputs)


def _stored(arrays: Mapping[str, np.ndarray], name: str, where: str) -> Output:
    """The array of an output, or the items of its sequence."""
    if name in arrays:
        return arrays[name]
    items = sorted((key for key in arrays if _item_of(key) == name), key=_index_of)
    if [_index_of(key) for key in items] != list(range(len(items))) or not items:
        raise InputError("an output has no array", where=where, expected=name)
    return tuple(arrays[key] for key in items)


def _item_of(key: str) -> str | None:
    found = ITEM.fullmatch(key)
    return None if found is None else found["name"]


def _index_of(key: str) -> int:
    found = ITEM.fullmatch(key)
    return -1 if found is None else int(found["index"])


def _expected(outputs: Mapping[str, Output], count: int, chosen: np.ndarray) -> Outputs:
    """The outputs of the chosen samples."""
    if count == 1:
        return outputs
    found: dict[str, Output] = {}
    for name, output in outputs.items():
        assert isinstance(output, np.ndarray)
        rows = len(output) // count
        found[name] = output[(chosen[:, None] * rows + np.arange(rows)).ravel()]
    return found
