"""The Triton kernels and the supernets on fake tensors of the second of two CUDA devices.

Fake tensors have a shape and a device, but no memory. A tensor that is left on the CPU or on the
first device raises an error or is noticed, and so is what would wait on a GPU: a number that is
read, or a result whose shape depends on values. `tests/kernels/triton/test_devices.py` runs these
tests in a process of their own, with the library of `fake_cuda.py`. Without it PyTorch for CPUs
ends at the first operator that autograd records, and with a device guard alone at the first
gradient that it adds up. With it forward and backward pass go all the way to the launches, of which
the arguments are looked at: no kernel computes, and Triton's driver is not called.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from helpers.candidates import candidates_of
from helpers.tiny import TINY_SIZES, tiny_space
from helpers.waits import Watch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_leaves

from hwnas.architecture import Mixture
from hwnas.kernels import operator
from hwnas.kernels.plan import CellPlan, Edge, tensors_of
from hwnas.kernels.triton import cell, program
from hwnas.kernels.triton.launch import TritonLauncher
from hwnas.kernels.triton.program import Place, Program
from hwnas.kernels.weighted_norms import weighted_norms_backward_op, weighted_norms_op
from hwnas.nn.mixed_op import use_kernels
from hwnas.spaces import SPACES, nasbench101_parts

DEVICE = torch.device("cuda", 1)
EDGES = ((0, 2, 2), (1, 2, 1), (2, 3, 1))
CHANNELS = {"darts": 12, "nasbench201": 20}
FEWER = {"darts": {"nodes": 2}}
"""Options of spaces whose cells have many edges."""


class OneDevice(Watch):
    """Notes beside what would wait the devices of all results, and operators of hwnas."""

    def __init__(self) -> None:
        super().__init__()
        self.devices: set[torch.device] = set()
        self.own: set[str] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace == "hwnas":
            self.own.add(function._opname)
        result = super().__torch_dispatch__(function, types, args, kwargs)
        self.devices |= {leaf.device for leaf in tree_leaves(result) if isinstance(leaf, Tensor)}
        return result


@contextmanager
def warm() -> Iterator[OneDevice]:
    """What runs inside waits for no device, copies to none, and stays on one."""
    with OneDevice() as watch:
        yield watch
    assert watch.found == {}
    assert watch.devices == {DEVICE}


def empty(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device=DEVICE)


GRU_CELL = torch.library.Library("aten", "IMPL")
"""What fake tensors need of PyTorch's own operators for a GRU, which describes those of an LSTM."""


def gru_cell(input_gates: Tensor, hidden_gates: Tensor, state: Tensor, *biases: Any) -> Any:
    return torch.empty_like(state), state.new_empty(len(state), 5 * state.shape[1])


def gru_cell_backward(gradient: Tensor, workspace: Tensor, has_bias: bool) -> Any:
    rows, width = gradient.shape
    gates = [gradient.new_empty(rows, 3 * width) for _ in range(2)]
    biases = [gradient.new_empty(3 * width) if has_bias else None for _ in range(2)]
    return *gates, torch.empty_like(gradient), *biases


GRU_CELL.impl("_thnn_fused_gru_cell", gru_cell, "Meta")
GRU_CELL.impl("_thnn_fused_gru_cell_backward", gru_cell_backward, "Meta")


def tensors_among(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, Place):
            yield value.like
        elif isinstance(value, tuple):
            yield from tensors_among(value)


@pytest.fixture(autouse=True)
def launched(monkeypatch) -> Iterator[list[str]]:
    """Names of the kernels, each launched on tensors of the device alone."""
    names: list[str] = []
    # Constants of a fake mode are not kept by a space, which may live longer; here it does not.
    monkeypatch.setattr(nasbench101_parts, "Tensor", FakeTensor)

    def launch(self, kernel, grid, *arguments, **options) -> None:
        assert {t.device for t in tensors_among(arguments)} == {DEVICE}
        assert all(isinstance(size, int) and size > 0 for size in grid)
        names.append(kernel.__name__)

    def run(self: Program, bases: list[Tensor], saved: Tensor) -> None:
        for step in self.steps:
            launch(None, step.kernel, step.grid, *bases, saved, *step.arguments)

    monkeypatch.setattr(TritonLauncher, "_launch", launch)
    monkeypatch.setattr(Program, "run", run)
    # The storage of a fake tensor has no address.
    monkeypatch.setattr(program, "_storage", lambda tensor: tensor.untyped_storage()._cdata)
    yield names
    cell._forward_program.cache_clear()
    cell._backward_program.cache_clear()


def on_device(module: nn.Module) -> nn.Module:
    """A module with fake tensors in place of its parameters and buffers."""
    for part in module.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            fake = empty(parameter.shape, parameter.dtype)
            part.register_parameter(name, nn.Parameter(fake, parameter.requires_grad))
        for name, buffer in list(part.named_buffers(recurse=False)):
            setattr(part, name, empty(buffer.shape, buffer.dtype))
    return module


def described(tensors: list[Tensor]) -> list[tuple]:
    return [(t.shape, t.stride(), t.dtype, t.device) for t in tensors]


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("recompute", ["nothing", "all"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("space", CHANNELS)
def test_the_kernels_of_a_cell(space, dtype, recompute, training, launched) -> None:
    """Results are shaped as the operator's description for `torch.compile` says."""
    channels = CHANNELS[space]
    edges = [Edge(s, t, candidates_of(space, channels, (8, 8), stride)[1], stride)
             for s, t, stride in EDGES]  # fmt: skip
    listed, norms = tensors_of(edges)
    description = CellPlan.describe(2, edges)
    groups = CellPlan.of(description).groups
    with FakeTensorMode():
        parameters = [empty(c.tensors[n].shape, dtype) for c, n in listed]
        running = [empty((channels,)) for _ in range(2) for _ in norms]
        inputs = [empty((2, channels, size, size), dtype) for size in (8, 4)]
        mixing = empty((len(edges), len(edges[0].candidates)))
        used = [] if training else [r.to(dtype) for r in running]
        arguments = (inputs, mixing, parameters, used, description, "triton", recompute, True)
        expected = operator.mixed_cell_op(*arguments)
        needed = ([True] * len(inputs), [True] * len(parameters))
        for is_warm in (False, True):
            with warm() if is_warm else nullcontext():
                found = operator.mixed_cell_op._init_fn(*arguments)
                nodes = [torch.empty_like(node) for node in found[:2]]
                backward = (nodes, inputs, mixing, parameters, found, description, "triton",
                            recompute, training, *needed)  # fmt: skip
                gradients = operator.mixed_cell_backward_op._init_fn(*backward)
                tables = found[2 : 2 + len(groups)]
                operator.update_running_statistics._init_fn(
                    running, tables, description, [9] * len(groups), 0.1
                )
        assert described(found) == described(expected)
        assert described(gradients) == described(operator.mixed_cell_backward_op(*backward))
    assert set(launched) == {
        "stage_forward", "mix", "reduce", "stage_backward_outputs", "stage_backward_inputs",
        "sum_weight_gradients",
    }  # fmt: skip


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("channels", [20, 200])
def test_the_kernels_of_weighted_norms(channels, training, launched) -> None:
    with FakeTensorMode():
        branches = [empty((2, channels, 5, 4)) for _ in range(3)]
        weights, affine = empty((3,)), [empty((channels,)) for _ in range(6)]
        running = [] if training else [empty((channels,)) for _ in range(6)]
        arguments = (branches, weights, affine, running, "triton")
        for is_warm in (False, True):
            launched.clear()
            with warm() if is_warm else nullcontext():
                found = weighted_norms_op._init_fn(*arguments)
                backward = (found[0], branches, weights, found[1], "triton", training)
                gradients = weighted_norms_backward_op._init_fn(*backward)
        assert described(found) == described(weighted_norms_op(*arguments))
        assert described(gradients) == described(weighted_norms_backward_op(*backward))
    assert launched == ["mix", "reduce"]


def step(name: str, *, soft: bool, training: bool) -> set[str]:
    """Operators of hwnas in a step, forward and backward, which stays on its device once warm."""
    space = tiny_space(name, **FEWER.get(name, {}))
    supernet = space.supernet().train(training)
    path = space.one_hot(space.sample(np.random.default_rng(0)))
    active = None if soft else path.active
    with FakeTensorMode():
        on_device(supernet)
        use_kernels(supernet, "auto", "nothing")
        weights = empty(tuple(space.mask.shape)).requires_grad_()
        images = empty((2, TINY_SIZES["input_channels"], 9, 7))
        leaves = [weights, *supernet.parameters()]
        for is_warm in (False, True):
            with warm() if is_warm else nullcontext() as watch:
                out = supernet(images, Mixture(weights, active))
                gradients = torch.autograd.grad(out.square().sum(), leaves, allow_unused=True)
    assert {t.device for t in (out, *gradients) if t is not None} == {DEVICE}
    assert isinstance(watch, OneDevice)
    return watch.own


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("soft", [True, False], ids=["soft", "single path"])
@pytest.mark.parametrize("name", sorted(SPACES))
def test_a_step_of_a_supernet(name, soft, training) -> None:
    """The operators of the kernels stand for what they launch."""
    update = {"update_running_statistics"} if training else set()
    cell = {"mixed_cell", "mixed_cell_backward"} | update
    norms = {"weighted_norms", "weighted_norms_backward"}
    fused = {"darts": cell, "nasbench201": cell, "mbconv": norms}
    assert step(name, soft=soft, training=training) == fused.get(name, set())


@pytest.mark.parametrize("soft", [True, False], ids=["soft", "single path"])
@pytest.mark.parametrize("name", CHANNELS)
def test_a_step_of_programs(name, soft, monkeypatch) -> None:
    """As on a GPU, where a cell in training is a program, and not the operator as here."""
    module = sys.modules["hwnas.kernels.cell"]
    monkeypatch.setattr(module, "is_traced", lambda *tensors: False)
    assert step(name, soft=soft, training=True) == set()
    assert cell._forward_program.cache_info().hits > 0
    assert cell._backward_program.cache_info().hits > 0
