"""Networks and the C programs that are made of them, compiled for this machine."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import torch
from helpers.tiny import tiny_space
from torch import nn

from hwnas.deploy.microcontroller import c_source
from hwnas.deploy.microcontroller.lowering import lower
from hwnas.deploy.microcontroller.memory import Plan, plan
from hwnas.deploy.microcontroller.quantise import QuantisedProgram, quantise
from hwnas.spaces import SearchSpace

EVERY_ACTIVATION = ["relu", "hswish", "sigmoid", "tanh", "gelu", "silu", "elu", "leaky_relu"]
STAGES = [
    {
        "operator": ["conv", "separable"],
        "layers": [1, 2],
        "kernel": [3, 5],
        "channels": 6,
        "stride": [1, 2],
        "reduction": 2,
        "pooling": ["max", "avg"],
        "activation": EVERY_ACTIVATION[:2],
    },
    {
        "channels": 6,
        "layers": 2,
        "dilation": [1, 2],
        "groups": [1, 3],
        "norm": ["batch", "none"],
        "residual": [False, True],
        "activation": ["relu6", "none"],
    },
    {"operator": "dense", "channels": 5, "activation": ["tanh", "relu"]},
]
"""Stages of a macro space with everything that has an integer form."""


def spaces() -> dict[str, SearchSpace]:
    """Small spaces whose networks have an integer form."""
    return {
        "macro": tiny_space("macro", stages=STAGES),
        "signals": tiny_space("macro", stages=STAGES, input_channels=3, height=1, width=40),
        "mbconv": tiny_space("mbconv", squeeze_excitation="choice", activation="hswish"),
        "nasbench201": tiny_space("nasbench201"),
        "darts": tiny_space("darts"),
    }


def random_network(space: SearchSpace, seed: int) -> nn.Module:
    """A network of a random architecture, with statistics as after a training."""
    torch.manual_seed(seed)
    network = space.network(space.sample(np.random.default_rng(seed))).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    return network


def samples_of(space: SearchSpace, count: int = 16) -> np.ndarray:
    """Random inputs of a space's networks."""
    size = (count, *space.options.input_shape)
    return np.random.default_rng(1).normal(size=size).astype(np.float32)


def quantised(network: nn.Module, samples: np.ndarray) -> tuple[Plan, QuantisedProgram]:
    """A network's planned memory and integers."""
    planned = plan(lower(network, samples.shape[1:]))
    return planned, quantise(planned.program, samples)


class CompiledProgram:
    """A C program as a library of this machine."""

    def __init__(self, planned: Plan, program: QuantisedProgram, folder: Path) -> None:
        self.program = program
        self.source = write_sources(planned, program, folder)
        library = folder / "model.so"
        flags = ["-std=c99", "-O1", "-Wall", "-Wextra", "-Werror", "-fsanitize=undefined"]
        trap = ["-fsanitize-undefined-trap-on-error", "-shared", "-fPIC"]
        compiler = shutil.which("cc") or "gcc"
        subprocess.run([compiler, *flags, *trap, "-o", library, self.source], check=True)
        self.library = ctypes.CDLL(str(library))
        self.library.model_input.restype = ctypes.c_void_p
        self.library.model_run.restype = ctypes.c_void_p

    def outputs(self, samples: np.ndarray) -> np.ndarray:
        """Real outputs (samples, outputs) for real inputs."""
        count = self.program.program.sizes[self.program.program.output]
        rows = []
        for sample in samples:
            numbers = self.program.input.quantised(sample).ravel()
            ctypes.memmove(self.library.model_input(), numbers.ctypes.data, numbers.size)
            answer = ctypes.string_at(self.library.model_run(), count)
            rows.append(self.program.result.real(np.frombuffer(answer, np.int8)))
        return np.array(rows)


def write_sources(planned: Plan, program: QuantisedProgram, folder: Path) -> Path:
    """Write `model.c` and `model.h`; returns the first."""
    (folder / "model.h").write_text(c_source.header(planned, program))
    source = folder / "model.c"
    source.write_text(c_source.source(planned, program))
    return source
