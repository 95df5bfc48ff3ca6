"""A trained network of one's own, made fast enough for a device and a budget."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from hwnas.config import (
    DataConfig,
    ShrinkConfig,
    load_config,
    parse_config,
    read_document,
    require_valid_keys,
)
from hwnas.data import Dataset, Normalisation
from hwnas.data.inputs import InputTensors
from hwnas.data.own_data import Samples, dataset_of
from hwnas.errors import InputError
from hwnas.latency_tables.remote.choosing import runtime_on
from hwnas.latency_tables.remote.inventory import find_device
from hwnas.latency_tables.runtimes import Runtime
from hwnas.pipeline import stages
from hwnas.pipeline.configuration import fitted_settings
from hwnas.pipeline.own_arguments import examples_for, set_key, task_for
from hwnas.pipeline.own_problem import OwnProblem, digest_of
from hwnas.pipeline.problem import read_dataset
from hwnas.pipeline.result import Result
from hwnas.pipeline.staircase import width_step
from hwnas.runs.run_folder import RunFolder, next_run_folder
from hwnas.shrinking.space import shrink_space
from hwnas.spaces.traced.described import TRACED
from hwnas.spaces.traced.naming import argument_names
from hwnas.spaces.traced.space import TracedSpace
from hwnas.tasks import Loss, Task
from hwnas.tasks.own import Direction, Metric, OwnTask

OWN = "hwnas.shrink"
"""How errors name what was given."""
LEARNING_RATE = 0.02
"""At the start of the trainings, which begin with trained weights; with sgd."""
MAX_ACCURACY_DROP = 0.02
"""How far the score may fall below that of the original, unless a setting says otherwise."""
OPERATOR_S = 0.2
"""Seconds to measure one layer at one pair of widths; there are hundreds."""
CANDIDATES, RANKED = 3, 1000
"""Candidates of the last round that are compared, and training samples that compare them."""


def shrink(
    model: nn.Module,
    data: Samples | Dataset,
    out: str | Path | None = None,
    *,
    budget_ms: float | Sequence[float],
    validation: Samples | None = None,
    loss: Loss | None = None,
    metric: Metric | None = None,
    direction: Direction | None = None,
    example_inputs: InputTensors | None = None,
    runtime: str | None = None,
    device_name: str | None = None,
    device: str = "cpu",
    epochs: int | None = None,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    table: str | Path | None = None,
    show_progress: bool = True,
) -> Result:
    """Make a trained network fast enough for a latency budget.

    Channels and residual blocks are taken away, those first that cost more than they are worth: the
    cost is measured on this device for every layer at a grid of widths, and the worth estimated
    from the loss. What is left is trained with the original network as the teacher, exported and
    checked. The run folder is like that of `hwnas run`; where it holds a run that was started by
    the same call, that run is continued.

    Args:
        model: a trained module; it is not changed.
        data: training samples, as for `hwnas.dataset_of`, or a dataset with both parts. Inputs of
            type float32 are given to the model as they are. Images of integers are scaled to 0..1
            and normalised, by their own mean and standard deviation unless the settings
            `shrink.mean` and `shrink.std` say otherwise.
        out: the run folder; the next free `runs/run-001` ... if None.
        budget_ms: the latency budget in milliseconds. Of several budgets, each gets a network; all
            of them share their weights in one training, and those of further budgets are in
            `family/` of the folder.
        validation: the samples that the final scores are taken on; a fifth of `data` if None.
        loss: `loss(outputs, targets)` returns a scalar; by default that of the usual task.
        metric: `metric(outputs, targets)` returns a number from 0 to 1 that is better if larger; or
            any number, with a `direction`. By default the usual metrics.
        direction: "maximize" or "minimize".
        example_inputs: a batch of inputs (N, ...), to be compared with the data.
        runtime: where the model will run, one of `hwnas info`; that of the named device, or
            `onnxruntime-cpu` if None.
        device_name: a name of `devices.toml`, to measure on that device; this machine if None.
        device: where importance is estimated and the network trained, "cpu" or "cuda".
        epochs: of the last training.
        settings: any other settings of a configuration by dotted key, as `{"shrink.rounds": 5}`.
        seed: of all random choices.
        table: a latency table of this device; measured now if None.
        show_progress: show bars or lines about the stages on stderr.

    Returns:
        The finished run, see `hwnas.load`; of several budgets that of the first.

    Raises:
        InputError: for a model that does not run, cannot be traced, or does not fit the data, and
            for a budget below what remains when everything removable is gone.
        DeviceError: when the named device cannot be reached.
        RuntimeMissingError: when Torch-Pruning or the runtime is not installed.
        HwnasError: with the exit code that the command line gives.
    """
    chosen, budgets_ms = _stated(settings or {}), _budgets(budget_ms)
    dataset = data if isinstance(data, Dataset) else dataset_of(data, validation, name="own")
    if isinstance(data, Dataset) and validation is not None:
        raise InputError("the dataset has a part for scores", where=f"{OWN}: validation")
    if dataset.inputs:
        dataset = dataset.with_input_names(argument_names(model, len(dataset.inputs)))
    dataset = _as_the_model_reads(dataset, chosen)
    path = Path(out or next_run_folder())
    resume = RunFolder(path).history.exists()
    examples = examples_for(dataset, True, example_inputs, OWN)
    latency = _latency(runtime, device_name)
    step = chosen.step or _known_step(path) or width_step(_measuring(latency))
    space = shrink_space(
        model,
        examples,
        step=step,
        remove_blocks=chosen.remove_blocks,
        most_operators=chosen.most_operators,
        resolutions=chosen.resolutions,
    )
    task = task_for(dataset, space, True, loss, metric, direction, OWN)
    space = space.reading(dataset.input_shape)
    document = _document(dataset, task, space, model, seed) | {"device": device}
    document["latency"] = latency | {"operator_seconds": OPERATOR_S}
    document["budget"] = {"ms": budgets_ms[0]}
    if len(budgets_ms) > 1:
        document["budget"]["family_ms"] = budgets_ms[1:]
        document["shrink"]["elastic"] = True
    for key, value in {"train.epochs": epochs, **(settings or {}), "shrink.step": step}.items():
        if value is not None:
            set_key(document, key, value)
    config = parse_config(document, OWN)
    problem = OwnProblem(config, OWN, dataset, task, space)
    stages.run(
        config, path, table=table, resume=resume, show_progress=show_progress, problem=problem
    )
    return Result(path, problem)


def _budgets(budget_ms: float | Sequence[float]) -> list[float]:
    """The latency budgets, at least one, each once."""
    budgets = [budget_ms] if isinstance(budget_ms, int | float) else budget_ms
    found = [float(one) for one in budgets]
    if not found or len(set(found)) < len(found):
        raise InputError(
            "not one or several budgets",
            where=f"{OWN}: budget_ms",
            expected="at least one number of milliseconds, each once",
            actual=found,
        )
    return found


def _latency(runtime: str | None, device_name: str | None) -> dict[str, Any]:
    """The settings of what measures, as far as they are stated here or in `devices.toml`."""
    if device_name is None:
        return {"runtime": runtime or "onnxruntime-cpu"}
    found = find_device(device_name)
    stated = {"device": device_name, "threads": found.threads}
    return stated | {"runtime": runtime or found.runtime}


def _measuring(latency: Mapping[str, Any]) -> Runtime:
    """The runtime of such settings."""
    return runtime_on(latency.get("device"), latency["runtime"], latency.get("threads", 1))


def read_named_data(name: str, path: Path | None, stated: Mapping[str, Any], seed: int) -> Dataset:
    """The data that a command names.

    Args:
        name: a dataset or format, or a TOML file with a table `[data]`.
        path: the file or folder of the data, if it is not in that table.
        stated: further keys of the table.
        seed: draws samples where the keys limit their number.

    Raises:
        InputError: for an unknown name or key, and for data that are missing or malformed.
    """
    table: dict[str, Any] = {"name": name}
    if name.endswith(".toml"):
        table = dict(read_document(name).get("data", {}))
    table |= dict(stated) | ({} if path is None else {"path": str(path)})
    where = name if name.endswith(".toml") else "--data"
    require_valid_keys({"data": table}, where)
    if "name" not in table:
        raise InputError("the file names no data", where=f"{where}: data.name")
    return read_dataset(DataConfig.model_validate(table), seed)


def flattened(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted key."""
    found: dict[str, Any] = {}
    for key, value in document.items():
        if isinstance(value, dict):
            found |= flattened(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _stated(settings: Mapping[str, Any]) -> ShrinkConfig:
    """The settings of the table `shrink`."""
    stated: dict[str, Any] = {}
    for key, value in settings.items():
        if key.startswith("shrink."):
            set_key(stated, key, value)
    require_valid_keys(stated, OWN)
    return ShrinkConfig(**stated.get("shrink", {}))


def _as_the_model_reads(dataset: Dataset, stated: ShrinkConfig) -> Dataset:
    """The data, normalised as the model expects it; see `shrink`."""
    if dataset.vocabulary:
        return dataset
    if dataset.inputs:
        return dataset.as_given()
    dtype, channels = dataset.train.inputs.dtype.name, dataset.input_shape[0]
    if stated.mean is not None and stated.std is not None:
        if len(stated.mean) != channels or len(stated.std) != channels:
            raise InputError(
                "not one value for each channel",
                where=f"{OWN}: shrink.mean and shrink.std",
                expected=channels,
                actual=f"{len(stated.mean)} and {len(stated.std)}",
            )
        moments = tuple(stated.mean), tuple(stated.std)
        return dataset.with_normalisation(Normalisation(dtype, *moments))
    if dtype != "float32":
        return dataset
    return dataset.as_given()


def _known_step(path: Path) -> int | None:
    """The step of widths of the run that a folder holds."""
    folder = RunFolder(path)
    if not folder.config.exists():
        return None
    known = load_config(folder.config).shrink
    return None if known is None else known.step


def _document(
    dataset: Dataset, task: Task, space: TracedSpace, model: nn.Module, seed: int
) -> dict[str, Any]:
    """The configuration as far as it follows from the data and the model."""
    fitted = fitted_settings(dataset, task.base if isinstance(task, OwnTask) else task)
    fitted["search"] |= {"candidates": CANDIDATES, "ranking_images": RANKED}
    fitted["train"] |= {"inherit": True, "auxiliary_weight": 0.0, "label_smoothing": 0.0}
    if fitted["train"].get("optimizer", "sgd") == "sgd":
        fitted["train"]["learning_rate"] = LEARNING_RATE
    options = space.options.model_dump(mode="json", exclude_none=True)
    return {
        "seed": seed,
        **fitted,
        "data": {"name": "own"},
        "space": {"name": TRACED, **options},
        "check": {"max_accuracy_drop": MAX_ACCURACY_DROP},
        "shrink": {},
        "notes": [
            f"data {digest_of(dataset)}: given in Python",
            f"model {_digest(model)}: given in Python",
        ],
    }


def _digest(model: nn.Module) -> str:
    """A short hash of a model's weights, by which a continued run knows it."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()[:16]
