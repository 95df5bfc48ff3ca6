"""A search in a user's own PyTorch model, with data, loss and metric given in Python."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, overload

from torch import Tensor, nn

from hwnas.architecture import Architecture
from hwnas.config import Config
from hwnas.config.reading import parse_config
from hwnas.data import Dataset
from hwnas.data.inputs import InputTensors
from hwnas.data.own_data import Samples, dataset_of
from hwnas.errors import InputError
from hwnas.evaluators.function import Evaluate
from hwnas.pipeline import stages
from hwnas.pipeline.configuration import fitted_settings
from hwnas.pipeline.own_arguments import examples_for, set_key, task_for
from hwnas.pipeline.own_problem import OwnProblem, digest_of, example_data
from hwnas.pipeline.result import Result
from hwnas.runs.run_folder import RunFolder, next_run_folder
from hwnas.spaces.traced.described import TRACED
from hwnas.spaces.traced.naming import argument_names
from hwnas.spaces.traced.space import TracedSpace, space_of
from hwnas.tasks import Loss, Task
from hwnas.tasks.own import Direction, JudgedTask, Metric, OwnTask

logger = logging.getLogger("hwnas")
OWN = "hwnas.search"
"""How errors name the settings of such a search."""
EVALUATIONS = 30
"""Calls of `evaluate` unless `steps` are stated."""


@overload
def search(
    model: nn.Module,
    out: str | Path | None = None,
    *,
    train: Samples | Dataset | None = None,
    validation: Samples | None = None,
    loss: Loss | None = None,
    metric: Metric | None = None,
    direction: Direction | None = None,
    evaluate: Evaluate | None = None,
    example_inputs: InputTensors | None = None,
    budget_ms: float | None = None,
    runtime: str = "onnxruntime-cpu",
    device: str = "cpu",
    strategy: str | None = None,
    steps: int | None = None,
    epochs: int | None = None,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    table: str | Path | None = None,
    show_progress: bool = True,
) -> Result: ...


@overload
def search(
    model: Config | str | Path,
    out: str | Path | None = None,
    *,
    table: str | Path | None = None,
    resume: bool = False,
    show_progress: bool = True,
) -> Architecture: ...


def search(
    model: nn.Module | Config | str | Path,
    out: str | Path | None = None,
    *,
    table: str | Path | None = None,
    resume: bool = False,
    show_progress: bool = True,
    **given: Any,
) -> Result | Architecture:
    """Search in a model of one's own, and train, export and check what was found.

    The run folder is like that of `hwnas run`. Where it holds a run that was started by the same
    call, that run is continued; `hwnas run --resume` cannot continue it, since the model is not in
    the folder. `hwnas check`, `hwnas report` and comparisons of runs need the folder alone.

    With a configuration instead of a model, the search of that configuration is made as by `hwnas
    search`: `train` to `seed` are not taken then, `resume` continues an unfinished run, and the
    architecture is returned.

    Args:
        model: a module with choices of `hwnas.nn`, see `hwnas.space_of`; or a configuration, or
            what `load_config` reads.
        out: the run folder; the next free `runs/run-001` ... if None.
        train: the training samples, as for `hwnas.dataset_of`, or a dataset with both parts. Inputs
            are normalised before the model sees them. Several inputs, as in `((images, tables),
            targets)`, are the arguments of the model's `forward` and get their names.
        validation: the samples that the final scores are taken on; a fifth of `train` if None.
        loss: `loss(outputs, targets)` returns a scalar; by default that of the usual task.
        metric: `metric(outputs, targets)` returns a number from 0 to 1 that is better if larger; or
            any number, with a `direction`. By default the usual metrics.
        direction: "maximize" or "minimize".
        evaluate: `evaluate(module)` returns a score of a plain module, which it may train in place;
            a larger score is better. It replaces the supernet, and without `train` the training
            too: the final weights are those that it leaves in the module. One that raises or
            returns no finite number costs its candidate, not the search.
        example_inputs: a batch of inputs (N, ...), or a tuple of several; needed only without
            `train`.
        budget_ms: the latency budget; half-way between the fastest and the slowest network if None.
        runtime: where the model will run, one of `hwnas info`.
        device: where search and training run, "cpu" or "cuda".
        strategy: one of `hwnas strategies`; `darts`, or `evolution` with `evaluate`, if None.
        steps: training steps of the supernet, or calls of `evaluate`.
        epochs: of the training of the architecture that was found.
        settings: any other settings of a configuration by dotted key, as
            `{"search.learning_rate": 0.1}`.
        seed: of all random choices but the model's initial weights.
        table: a latency table of this device; measured now if None.
        resume: of a configuration's search, see above.
        show_progress: show bars or lines about the stages on stderr.
        given: the arguments from `train` to `seed`.

    Returns:
        The finished run, see `hwnas.load`.

    Raises:
        InputError: for a model, data or functions that do not fit each other, before anything long
            begins.
        HwnasError: with the exit code that the command line gives.
    """
    if isinstance(model, nn.Module):
        return _search_model(model, out, table=table, show_progress=show_progress, **given)
    if given:
        raise InputError(
            "this is for a model, and a configuration was given",
            where=f"{OWN}: {next(iter(given))}",
            mend="give a torch.nn.Module, or state it in the configuration",
        )
    return stages.search(model, out, table=table, resume=resume, show_progress=show_progress)


def _search_model(
    model: nn.Module,
    out: str | Path | None,
    *,
    table: str | Path | None,
    show_progress: bool,
    train: Samples | Dataset | None = None,
    validation: Samples | None = None,
    loss: Loss | None = None,
    metric: Metric | None = None,
    direction: Direction | None = None,
    evaluate: Evaluate | None = None,
    example_inputs: InputTensors | None = None,
    **given: Any,
) -> Result:
    dataset = _dataset(train, validation, evaluate, example_inputs)
    if dataset.inputs:
        dataset = dataset.with_input_names(argument_names(model, len(dataset.inputs)))
    space = space_of(model, examples_for(dataset, train is not None, example_inputs, OWN))
    task = task_for(dataset, space, train is not None, loss, metric, direction, OWN)
    space = space.reading(dataset.input_shape)
    config = _config(dataset, task, space, evaluate is not None, **given)
    if isinstance(task, JudgedTask):
        _require_no_data(config)
    problem = OwnProblem(config, OWN, dataset, task, space, evaluate)
    path = Path(out or next_run_folder())
    resume = RunFolder(path).history.exists()
    stages.run(
        config, path, table=table, resume=resume, show_progress=show_progress, problem=problem
    )
    return Result(path, problem)


def _dataset(
    train: Samples | Dataset | None,
    validation: Samples | None,
    evaluate: Evaluate | None,
    example_inputs: InputTensors | None,
) -> Dataset:
    if train is None and evaluate is None:
        raise InputError(
            "nothing to learn from",
            where=f"{OWN}: train",
            expected="training samples, or a function `evaluate`",
        )
    if isinstance(train, Dataset):
        if validation is not None:
            raise InputError("the dataset has a part for scores", where=f"{OWN}: validation")
        return train
    if train is not None:
        return dataset_of(train, validation, name="own")
    inputs = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
    if not inputs or not all(isinstance(x, Tensor) and x.dim() > 1 for x in inputs):
        raise InputError(
            "without training samples the model needs an example of its inputs",
            where=f"{OWN}: example_inputs",
            expected="a tensor (N, ...), or a tuple of them",
        )
    assert example_inputs is not None
    return example_data(example_inputs)


def _config(
    dataset: Dataset,
    task: Task,
    space: TracedSpace,
    by_function: bool,
    budget_ms: float | None = None,
    runtime: str = "onnxruntime-cpu",
    device: str = "cpu",
    strategy: str | None = None,
    steps: int | None = None,
    epochs: int | None = None,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Config:
    """The configuration of the run, which suits the data where nothing is stated."""
    fitted = fitted_settings(dataset, task.base if isinstance(task, OwnTask) else task)
    search, train = fitted["search"], fitted["train"]
    if by_function:
        search |= {"evaluator": "function", "strategy": "evolution", "steps": EVALUATIONS}
    if isinstance(task, JudgedTask):
        search["batch_size"] = train["batch_size"] = 1
    stated = {"search.strategy": strategy, "search.steps": steps, "train.epochs": epochs}
    options = space.options.model_dump(mode="json", exclude_none=True)
    document = {
        "seed": seed,
        "device": device,
        **fitted,
        "data": {"name": "own"},
        "space": {"name": TRACED, **options},
        "latency": {"runtime": runtime},
        "budget": {"fraction": 0.5} if budget_ms is None else {"ms": budget_ms},
        "notes": [f"data {digest_of(dataset)}: given in Python"],
    }
    for key, value in [*stated.items(), *(settings or {}).items()]:
        if value is not None:
            set_key(document, key, value)
    return parse_config(document, OWN)


def _require_no_data(config: Config) -> None:
    """InputError for what needs training samples."""
    search = config.search
    for key, value, usual in (
        ("search.evaluator", search.evaluator, "function"),
        ("search.warm_start", search.warm_start, 0),
        ("controls", config.controls, 0),
    ):
        if value != usual:
            raise InputError(
                "this needs training samples",
                where=f"{OWN}: settings: {key}",
                expected=usual,
                actual=value,
                mend="give `train`, or leave the setting out",
            )
