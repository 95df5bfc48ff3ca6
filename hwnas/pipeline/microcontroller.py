"""A run's trained network as an int8 program for a microcontroller: C, a LiteRT file, its sizes."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hwnas.budget.sizes import Size
from hwnas.checking.gates import Gate, at_most
from hwnas.data.inputs import parts_of
from hwnas.deploy.microcontroller import c_source, interpreter, litert
from hwnas.deploy.microcontroller.lowering import lower
from hwnas.deploy.microcontroller.memory import Plan, plan
from hwnas.deploy.microcontroller.quantise import QuantisedProgram, quantise
from hwnas.durable import make_folder, write_atomic
from hwnas.errors import HwnasError, InputError
from hwnas.inspection.process import sha256_of
from hwnas.pipeline.run import Run
from hwnas.training.evaluate import evaluate

CALIBRATION_SAMPLES = 256
"""Training samples from which the ranges of activations are taken."""


def export_microcontroller(run: Run) -> dict[str, Any]:
    """Write the trained network as a program for microcontrollers.

    `microcontroller/` gets `model.c` and `model.h`, `model.tflite` where LiteRT is installed and
    has all operators, and `sizes.json`.

    Args:
        run: has trained weights.

    Returns:
        The content of `sizes.json`, schema 1: what the program takes, what was predicted of the
        architecture where there are such budgets, and the task's score on the test samples as the
        interpreter computes it.

    Raises:
        InputError: for networks with several inputs, or with operators without an integer form.
    """
    problem, folder = run.problem, run.folder
    if problem.dataset.inputs or problem.dataset.vocabulary:
        raise InputError(
            "a program for microcontrollers reads one map of numbers",
            where=str(folder.path),
            actual="tokens" if problem.dataset.vocabulary else "several inputs",
        )
    network = run.trained_network()
    planned = plan(lower(network, problem.space.options.input_shape))
    program = quantise(planned.program, _calibration(run))
    target = folder.microcontroller
    make_folder(target)
    write_atomic(target / "model.h", c_source.header(planned, program))
    write_atomic(target / "model.c", c_source.source(planned, program))
    note = _write_litert(target / "model.tflite", planned, program)
    document = {
        "schema": 1,
        **asdict(Size(planned.bytes, c_source.flash_bytes(planned.program), planned.program.macs)),
        "predicted": _predicted(run),
        "is_best_order": planned.is_best,
        "operators": len(planned.program.steps),
        **_scores(run, network, program),
        "litert": note,
        "weights_sha256": sha256_of(folder.weights),
    }
    folder.write_json(folder.microcontroller_sizes, document)
    return document


def microcontroller_gates(run: Run) -> list[Gate]:
    """The gates of RAM, flash and multiply-accumulates; none without such budgets.

    The fourth holds the score of the int8 program to that of the network.

    Raises:
        InputError: when the program is missing or belongs to other weights.
    """
    sizes, folder = run.target.sizes, run.folder
    if sizes is None:
        return []
    document = folder.read_json(folder.microcontroller_sizes)
    if document["weights_sha256"] != sha256_of(folder.weights):
        raise InputError(
            "the program belongs to other weights",
            where=str(folder.microcontroller),
            mend=f"`{folder.writer(folder.microcontroller_sizes)} {folder.path}` writes it anew",
        )
    size = Size(document["ram_bytes"], document["flash_bytes"], document["macs"])
    drop = document["score_float32"] - document["score"]
    return [
        *(at_most(name, value, most) for name, value, most in sizes.compared(size)),
        at_most("int8_program_drop", drop, run.config.check.max_accuracy_drop),
    ]


def _predicted(run: Run) -> dict[str, int] | None:
    """What the decoder knew of the architecture; None without such budgets."""
    sizes = run.target.sizes
    if sizes is None:
        return None
    return asdict(sizes.sizes.of(run.problem.space.chosen(run.architecture())))


def _calibration(run: Run) -> np.ndarray:
    """Normalised training samples, drawn by the run's seed."""
    dataset = run.problem.dataset
    count = min(CALIBRATION_SAMPLES, len(dataset.train))
    rng = np.random.default_rng(run.seed("calibration"))
    chosen = dataset.train.inputs[rng.choice(len(dataset.train), count, replace=False)]
    (inputs,) = parts_of(dataset.normalise(chosen))
    found: np.ndarray = inputs.numpy()
    return found


def _scores(run: Run, network: nn.Module, program: QuantisedProgram) -> dict[str, Any]:
    """The task's score on the test samples, of the network and of the program."""
    cpu = torch.device("cpu")
    exact = evaluate(network, run.problem.task, cpu)
    found = evaluate(_Interpreted(network, program), run.problem.task, cpu)
    metric = found["metric"]
    return {"metric": metric, "score": found[metric], "score_float32": exact[metric]}


class _Interpreted(nn.Module):
    """A program in place of its network."""

    def __init__(self, network: nn.Module, program: QuantisedProgram) -> None:
        super().__init__()
        self.network = network
        self.program = program

    def forward(self, x: Tensor) -> Tensor:
        """The outputs in the shape of the network's."""
        shape = self.network(x[:1]).shape[1:]
        found = interpreter.outputs(self.program, x.numpy())
        return torch.from_numpy(found).reshape(len(x), *shape)


def _write_litert(path: Path, planned: Plan, program: QuantisedProgram) -> str | None:
    """Write the LiteRT file; why there is none, or None if there is."""
    try:
        data = litert.flatbuffer(planned, program)
    except HwnasError as error:
        path.unlink(missing_ok=True)
        return str(error)
    write_atomic(path, data)
    return None
