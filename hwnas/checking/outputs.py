"""Inputs and outputs of an inference as arrays, whatever types the runtime returns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from hwnas.errors import DeviceError, InputError
from hwnas.latency_tables.runtimes.base import Infer
from hwnas.latency_tables.runtimes.onnx_errors import cause_of

Feeds = dict[str, np.ndarray]
"""An array for each input of a model, by name."""
Output = np.ndarray | tuple[np.ndarray, ...]
"""One output: an array, or the arrays of a sequence, whose number may differ from run to run."""
Outputs = Mapping[str, Output]
"""Each output of a model, by name."""
Predict = Callable[[Feeds], Outputs]
"""Runs one inference."""


def as_predict(infer: Infer, where: str) -> Predict:
    """Wrap a model on a runtime, so that its outputs are arrays and its errors are InputError.

    Args:
        infer: runs the model.
        where: the model file, for errors.

    Returns:
        A function that raises InputError when the model cannot run with the given feeds.
    """

    def predict(feeds: Feeds) -> Outputs:
        try:
            found = infer(feeds)
        except DeviceError:
            raise
        except Exception as error:  # the runtime's exceptions share no base class
            shapes = {name: list(array.shape) for name, array in feeds.items()}
            raise InputError(
                f"the model cannot run with inputs {shapes}",
                where=where,
                actual=cause_of(error),
                details=str(error),
            ) from None
        return {name: _as_output(value) for name, value in found.items()}

    return predict


def arrays_of(output: Output) -> tuple[np.ndarray, ...]:
    """The arrays of an output: one, or those of its sequence."""
    return output if isinstance(output, tuple) else (output,)


def in_order_of(outputs: Outputs, names: Sequence[str]) -> Outputs:
    """Outputs in the order of those of another model, where both have the same names."""
    return {name: outputs[name] for name in names} if outputs.keys() == set(names) else outputs


def single_arrays(outputs: Outputs) -> Iterator[tuple[str, np.ndarray]]:
    """Name and array of each output that is no sequence."""
    for name, output in outputs.items():
        if not isinstance(output, tuple):
            yield name, output


def _as_output(value: Any) -> Output:
    """A runtime's output as arrays.

    A map, or a sequence of maps with equal keys, becomes a table with a column for each key, in
    sorted order. Any other sequence becomes its arrays, those of inner sequences included. An
    optional output without a value is an empty sequence.
    """
    if value is None:
        return ()
    if isinstance(value, dict):
        return _table([value])
    if not isinstance(value, list):
        return np.asarray(value)
    if value and all(isinstance(row, dict) for row in value):
        if all(row.keys() == value[0].keys() for row in value):
            return _table(value)
    return tuple(array for item in value for array in arrays_of(_as_output(item)))


def _table(rows: list[dict[Any, Any]]) -> np.ndarray:
    return np.array([[row[key] for key in sorted(row)] for row in rows])
