"""What `hwnas.search(model, ...)` and `hwnas.shrink(model, ...)` are given, checked."""

from __future__ import annotations

from typing import Any

from hwnas.data import Dataset
from hwnas.data.inputs import InputTensors, parts_of
from hwnas.errors import InputError
from hwnas.pipeline.own_problem import examples_of
from hwnas.spaces.traced.space import TracedSpace
from hwnas.tasks import Loss, Task, task_of
from hwnas.tasks.own import Direction, JudgedTask, Metric, OwnTask


def examples_for(
    dataset: Dataset, has_data: bool, given: InputTensors | None, where: str
) -> InputTensors:
    """Inputs as the model reads them: samples of the data, or the given ones."""
    if not has_data:
        assert given is not None
        return given
    examples = examples_of(dataset)
    if given is not None:
        expected, found = ([x.shape[1:] for x in parts_of(xs)] for xs in (examples, given))
        if expected != found:
            raise InputError(
                "the training samples have another shape",
                where=f"{where}: example_inputs",
                expected=" and ".join(f"(N, {', '.join(map(str, s))})" for s in expected),
                actual=" and ".join(str(tuple(x.shape)) for x in parts_of(given)),
                mend="leave it out",
            )
    return examples


def task_for(
    dataset: Dataset,
    space: TracedSpace,
    has_data: bool,
    loss: Loss | None,
    metric: Metric | None,
    direction: Direction | None,
    where: str,
) -> Task:
    """The usual task of the data, or the user's own; the output has to suit the usual one."""
    for name, function in (("loss", loss), ("metric", metric)):
        if function is not None and not callable(function):
            raise InputError("not a function", where=f"{where}: {name}", actual=type(function))
    if direction not in (None, "maximize", "minimize"):
        raise InputError(
            "unknown direction",
            where=f"{where}: direction",
            expected="maximize or minimize",
            actual=direction,
        )
    shape = space.output_shape
    if not has_data:
        return JudgedTask(dataset, shape)
    base = task_of(dataset)
    if (loss is None or metric is None) and not base.suits(shape):
        raise InputError(
            f"the model's outputs do not suit {base.name}",
            where=f"{where}: model",
            expected=base.outputs_in_words,
            actual=f"outputs (N, {', '.join(map(str, shape))})",
            mend="change the last layer, or state both loss and metric",
        )
    if loss is None and metric is None:
        return base
    return OwnTask(base, shape, loss, metric, direction)


def set_key(document: dict[str, Any], key: str, value: Any) -> None:
    """Set a value by its dotted key."""
    *tables, last = key.split(".")
    for name in tables:
        document = document.setdefault(name, {})
    document[last] = value
