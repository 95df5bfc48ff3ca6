"""What a training takes over from other networks: first weights, and a teacher's outputs."""

from __future__ import annotations

import copy
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from hwnas.checking.properties import own_properties, reads_raw
from hwnas.config import TrainConfig
from hwnas.data.inputs import InputTensors, parts_of
from hwnas.data.normalisation import Normalisation
from hwnas.errors import InputError, first_line
from hwnas.inspection.process import Inspection, inspect_model
from hwnas.latency_tables.runtimes import Infer, OnnxRuntimeCpu
from hwnas.pipeline.run import Run
from hwnas.shrinking.space import ShrinkSpace
from hwnas.spaces.traced.space import TracedNetwork
from hwnas.training.first_weights import known_tensors, take_weights
from hwnas.training.teacher import Distillation, Features, Outputs

logger = logging.getLogger("hwnas")
TRANSFER = "transfer"
"""The event of the record about first weights in a run's history."""
TRAIN_FROM, SEARCH_FROM = "train.from", "search.from"
"""The settings that name files of first weights."""


def check_transfer(run: Run) -> None:
    """Find what is wrong with the files of `search.from`, `train.from` and `train.teacher`.

    Raises:
        InputError: when a file is missing or damaged, has no weights of the supernet, or the
            teacher does not suit the data.
    """
    config = run.config.train
    if run.config.search.start is not None:
        path = Path(run.config.search.start)
        with torch.device("meta"):
            supernet = run.problem.supernet()
        _require_known(supernet, _read_weights(path, SEARCH_FROM), f"{SEARCH_FROM}: {path}")
    if config.start is not None:
        _read_weights(Path(config.start), TRAIN_FROM)
    if config.teacher is not None:
        _require_suited(run, teacher_of_file(run, Path(config.teacher)), config.teacher)


def start_from(run: Run, network: nn.Module, path: Path, setting: str = TRAIN_FROM) -> None:
    """Give a network or a supernet first weights from a file, and report what each tensor took.

    Args:
        run: the run.
        network: changed in place.
        path: a safetensors file.
        setting: that names the file.

    Raises:
        InputError: when the file cannot be read, or has no tensor of a name of the network's.
    """
    weights = _read_weights(path, setting)
    _require_known(network, weights, f"{setting}: {path}")
    report = take_weights(network, weights)
    counts = Counter(one.taken for one in report)
    logger.info(
        "first weights from %s: %d tensors as they are, %d in part, %d new",
        path,
        counts["whole"],
        counts["part"],
        counts["nothing"],
    )
    if run.ranks.writes:
        record = {"event": TRANSFER, "setting": setting, "file": str(path)}
        run.folder.append_history(record | {"tensors": [asdict(one) for one in report]})


def distillation_of(run: Run, network: nn.Module, config: TrainConfig) -> Distillation | None:
    """What the teacher of a run adds to the loss; None without a teacher.

    The teacher of a network that is shrunk is the network as it was given, unless the settings name
    another one.

    Args:
        run: the run.
        network: the network that learns.
        config: settings of its training.
    """
    space = run.problem.space
    teacher: Outputs | None = None
    features: Features | None = None
    if config.teacher is not None:
        teacher = teacher_of_file(run, Path(config.teacher))
    elif isinstance(space, ShrinkSpace):
        teacher = whole = TracedNetwork(copy.deepcopy(space.model), space, {}).eval()
        whole.to(run.device)
        if config.features:
            dataset = run.problem.dataset
            example = dataset.normalise(dataset.train.inputs[:2], run.device)
            features = Features(network, whole, example, config.features)
    if teacher is None:
        return None
    tells_classes = run.problem.task.tells_classes
    return Distillation(teacher, config.distillation, config.temperature, tells_classes, features)


def teacher_of_file(run: Run, path: Path) -> Outputs:
    """The outputs of an ONNX model for inputs as the networks of a run read them.

    Raises:
        InputError: when the file is no model with the inputs of the data and one output.
    """
    where = f"train.teacher: {path}"
    if path.suffix != ".onnx":
        raise InputError(
            "a teacher is an ONNX model",
            where=where,
            mend="export it with torch.onnx.export or hwnas.export_network",
        )
    model = inspect_model(path)
    inputs = max(1, len(run.problem.dataset.inputs))
    if len(model.inputs) != inputs or len(model.outputs) != 1:
        raise InputError(
            "a teacher has the inputs of the data and one output",
            where=where,
            expected=f"{inputs} inputs",
            actual=f"{len(model.inputs)} inputs and {len(model.outputs)} outputs",
        )
    runtime = OnnxRuntimeCpu(run.config.threads)
    runtime.require()
    infer = runtime.infer(model.path.read_bytes())
    raw = reads_raw(own_properties(model.properties))
    normalisation = run.problem.dataset.normalisation if raw else None
    return _Teacher(model, infer, normalisation, where)


class _Teacher:
    """An ONNX model that is called with tensors."""

    def __init__(
        self, model: Inspection, infer: Infer, raw: Normalisation | None, where: str
    ) -> None:
        self.infer, self.raw, self.where = infer, raw, where
        self.names, self.output = [one.name for one in model.inputs], model.outputs[0].name
        shape = model.inputs[0].shape or (None,)
        self.batch = shape[0] if isinstance(shape[0], int) else None

    def __call__(self, inputs: InputTensors) -> Tensor:
        """Outputs for inputs (N, ...), in parts where the model has a fixed batch."""
        tensors = parts_of(inputs)
        arrays = [self._read(tensor) for tensor in tensors]
        samples, device = len(tensors[0]), tensors[0].device
        size = self.batch or samples
        try:
            parts = [
                self.infer(
                    {
                        name: _filled(array[start : start + size], size)
                        for name, array in zip(self.names, arrays, strict=True)
                    }
                )[self.output]
                for start in range(0, samples, size)
            ]
        except Exception as error:  # the runtime's exceptions share no base class
            raise InputError(
                f"the teacher does not run on inputs {[array.shape for array in arrays]}",
                where=self.where,
                actual=first_line(error),
            ) from None
        found = np.concatenate([np.asarray(part) for part in parts])[:samples]
        return torch.from_numpy(found).to(device)

    def _read(self, inputs: Tensor) -> np.ndarray:
        """Inputs as the model reads them: raw ones, if it normalises them itself."""
        inputs = inputs.detach().cpu()
        if self.raw is None:
            return np.ascontiguousarray(inputs.numpy())
        mean, std = self.raw.moments()
        values: np.ndarray = (inputs * std + mean).numpy()
        whole = self.raw.dtype != "float32"
        return np.ascontiguousarray(np.rint(values) if whole else values).astype(self.raw.dtype)


def _filled(part: np.ndarray, size: int) -> np.ndarray:
    """A batch of a certain size, filled up with its last sample."""
    if len(part) == size:
        return part
    return np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)])


def _require_suited(run: Run, teacher: Outputs, path: str) -> None:
    """Refuse a teacher whose outputs are not of the shape of the task's."""
    dataset, task = run.problem.dataset, run.problem.task
    found = tuple(teacher(dataset.normalise(dataset.train.inputs[:2])).shape)
    if len(found) != task.output_dimensions or found[1] != task.outputs:
        raise InputError(
            "the outputs of the teacher do not suit the data",
            where=f"train.teacher: {path}",
            expected=f"{task.outputs} for each {'sample' if len(found) == 2 else 'place'}",
            actual=f"outputs {found}",
        )


def _require_known(network: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
    """Refuse a file of which a network could not take a single tensor."""
    if not known_tensors(network, weights):
        raise InputError(
            "no tensor of this file has the name of one of the network's",
            where=where,
            expected=f"names such as {next(iter(network.state_dict()))}",
            mend="take weights of the same search space",
        )


def _read_weights(path: Path, setting: str) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    where = f"{setting}: {path}"
    if not path.is_file():
        raise InputError("no such file", where=where)
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError("not a safetensors file", where=where, actual=first_line(error)) from None
