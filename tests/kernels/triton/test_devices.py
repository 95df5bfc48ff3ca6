"""The Triton kernels on tensors of another device than the CPU, without a GPU.

PyTorch's device `meta` holds shapes without values. A tensor that is left on the CPU, a number that
is read, or a result whose shape depends on values raise an error there, as they would fail or wait
on a GPU. The kernels are not run; their arguments are looked at.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from helpers.candidates import candidates_of
from helpers.tiny import TINY_SIZES, tiny_space
from helpers.waits import Watch
from torch import Tensor

pytest.importorskip("triton")

from hwnas.architecture import Mixture
from hwnas.kernels import operator
from hwnas.kernels.plan import CellPlan, Edge, tensors_of
from hwnas.kernels.triton.launch import TritonLauncher
from hwnas.kernels.weighted_norms import weighted_norms_backward_op, weighted_norms_op
from hwnas.nn.mixed_op import use_kernels
from hwnas.spaces import SPACES

META = torch.device("meta")
EDGES = ((0, 2, 2), (1, 2, 1), (2, 3, 1))
CHANNELS = {"darts": 12, "nasbench201": 20}


def tensors_among(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, tuple):
            yield from tensors_among(value)


@pytest.fixture
def launched(monkeypatch) -> list[str]:
    """Names of the kernels, each launched on tensors of `meta` alone."""
    names: list[str] = []

    def launch(self, kernel, grid, *arguments, **options) -> None:
        assert {t.device for t in tensors_among(arguments)} == {META}
        assert all(isinstance(size, int) and size > 0 for size in grid)
        names.append(kernel.__name__)

    monkeypatch.setattr(TritonLauncher, "_launch", launch)
    return names


def described(tensors: list[Tensor]) -> list[tuple]:
    return [(t.shape, t.stride(), t.dtype, t.device) for t in tensors]


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("recompute", ["nothing", "all"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("space", CHANNELS)
def test_a_cell_stays_on_its_device(space, dtype, recompute, training, launched) -> None:
    """Results are shaped as the operator's description for `torch.compile` says."""
    channels = CHANNELS[space]
    edges = [Edge(s, t, candidates_of(space, channels, (8, 8), stride)[1], stride)
             for s, t, stride in EDGES]  # fmt: skip
    listed, norms = tensors_of(edges)
    parameters = [c.tensors[n].detach().to(META, dtype) for c, n in listed]
    running = [c.tensors[f"{p}.running_{w}"].to(META) for w in ("mean", "var") for c, p in norms]
    inputs = [torch.empty(2, channels, size, size, device=META, dtype=dtype) for size in (8, 4)]
    mixing = torch.empty(len(edges), len(edges[0].candidates), device=META)
    used = [] if training else [r.to(dtype) for r in running]
    description = CellPlan.describe(2, edges)
    arguments = (inputs, mixing, parameters, used, description, "triton", recompute, True)
    found = operator.mixed_cell_op._init_fn(*arguments)
    assert described(found) == described(operator.mixed_cell_op(*arguments))
    nodes = [torch.empty_like(node) for node in found[:2]]
    needed = ([True] * len(inputs), [True] * len(parameters))
    backward = (nodes, inputs, mixing, parameters, found, description, "triton", recompute,
                training, *needed)  # fmt: skip
    gradients = operator.mixed_cell_backward_op._init_fn(*backward)
    assert described(gradients) == described(operator.mixed_cell_backward_op(*backward))
    groups = CellPlan.of(description).groups
    tables = found[2 : 2 + len(groups)]
    operator.update_running_statistics._init_fn(
        running, tables, description, [9] * len(groups), 0.1
    )
    assert {"stage_forward", "mix", "reduce", "stage_backward_inputs"} <= set(launched)


def test_weighted_norms_stay_on_their_device(launched) -> None:
    branches = [torch.empty(2, 20, 5, 4, device=META) for _ in range(3)]
    weights = torch.empty(3, device=META)
    affine = [torch.empty(20, device=META) for _ in range(6)]
    arguments = (branches, weights, affine, [], "triton")
    found = weighted_norms_op._init_fn(*arguments)
    assert described(found) == described(weighted_norms_op(*arguments))
    backward = (found[0], branches, weights, found[1], "triton", True)
    gradients = weighted_norms_backward_op._init_fn(*backward)
    assert described(gradients) == described(weighted_norms_backward_op(*backward))
    assert launched == ["mix", "reduce"]


@pytest.mark.parametrize("soft", [True, False], ids=["soft", "single path"])
@pytest.mark.parametrize("name", sorted(SPACES))
def test_a_step_of_a_supernet_stays_on_its_device(name, soft, rng, monkeypatch, launched) -> None:
    """Forward and backward; the operators of the kernels stand for what they launch.

    Once it has run, a step reads no number and copies nothing to the device, so that a CUDA graph
    can be made of it.
    """
    for module in ("cell", "weighted_norms"):
        # The package has a function of the second module's name.
        found = sys.modules[f"hwnas.kernels.{module}"]
        monkeypatch.setattr(found, "choose_implementation", lambda *given, **options: "triton")
    torch.manual_seed(0)
    space = tiny_space(name)
    supernet = space.supernet().to(META)
    use_kernels(supernet, "auto", "nothing")
    mixture = Mixture(0.5 * space.mask) if soft else space.one_hot(space.sample(rng))
    weights = mixture.weights.to(META).requires_grad_()
    images = torch.empty(2, TINY_SIZES["input_channels"], 9, 7, device=META)
    for _ in range(2):
        with Watch() as watch:
            out = supernet(images, Mixture(weights, mixture.active))
            gradients = torch.autograd.grad(
                out.square().sum(), [weights, *supernet.parameters()], allow_unused=True
            )
    assert watch.found == {}
    assert gradients[0].device == META
    assert {g.device for g in gradients if g is not None} == {META}
