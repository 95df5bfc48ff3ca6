"""Constants of the Triton kernels: which are kept, for whom, and until when."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from helpers.cells import make_cell
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from hwnas.kernels.plan import CellPlan, Convolution, tensors_of
from hwnas.kernels.triton import arguments, packing
from hwnas.kernels.triton.constants import DeviceConstants
from hwnas.kernels.triton.layout import StageTables, stage_tables
from hwnas.kernels.triton.packing import PackedParameters

CPU = torch.device("cpu")
META = torch.device("meta")


def counted(limit: int = 100) -> DeviceConstants:
    """Vectors of equal elements."""
    return DeviceConstants(lambda value, device: torch.full((3,), value).to(device), limit)


class Watch(TorchDispatchMode):
    """Notes each operator that returns a tensor on `meta`, and whether it only copies one there."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, bool]] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and out.device == META:
            copies = function.name() == "aten::_to_copy" and args[0].device == CPU
            self.seen.append((function.name(), copies and args[0].dtype == out.dtype))
        return out


@pytest.fixture(scope="module")
def cell() -> tuple[tuple[Convolution, ...], list[Tensor]]:
    """First-stage convolutions of a strided edge, and the parameters of the edge."""
    case = make_cell("darts", ((0, 1, 2),), 2, 6, (5, 4), seed=1)
    plan = CellPlan.of(CellPlan.describe(1, case.edges))
    parameters = [c.tensors[n].detach() for c, n in tensors_of(case.edges)[0]]
    return plan.groups[0].first, parameters


def tables(cell, device: torch.device, width: int) -> StageTables:
    return stage_tables(cell[0], tuple(range(len(cell[0]))), 6, width, 1, device)


def test_a_constant_is_made_once() -> None:
    constants = counted()
    first = constants(1.0, CPU)
    assert constants(1.0, CPU) is first
    assert constants(2.0, CPU).tolist() == [2, 2, 2]


def test_fake_tensors_stay_with_their_mode() -> None:
    constants = counted()
    with FakeTensorMode() as mode:
        fake = constants(1.0, CPU)
        assert isinstance(fake, FakeTensor)
        assert constants(1.0, CPU) is fake
    real = constants(1.0, CPU)
    assert type(real) is Tensor
    assert real.tolist() == [1, 1, 1]
    with FakeTensorMode():
        assert isinstance(constants(1.0, CPU), FakeTensor)
        assert constants(1.0, CPU) is not fake
    watched = weakref.ref(fake)
    del fake, mode
    gc.collect()
    assert watched() is None


def test_packing_under_a_fake_mode_leaves_no_trace(cell) -> None:
    convolutions, parameters = cell
    with FakeTensorMode() as mode:
        fake = [mode.from_tensor(p) for p in parameters]
        assert isinstance(PackedParameters(fake, convolutions, 16).flat, FakeTensor)
        assert isinstance(tables(cell, CPU, 32).parts, FakeTensor)
    assert type(PackedParameters(parameters, convolutions, 16).flat) is Tensor
    assert type(tables(cell, CPU, 32).parts) is Tensor


def test_a_default_device_does_not_matter(cell) -> None:
    with torch.device("meta"):
        made = tables(cell, CPU, 64)
    assert made.parts.max() > 0
    assert made.parts.device == CPU


def test_constants_are_only_copied_to_their_device(cell) -> None:
    """A kernel that fills a constant would run in one stream, and others would not wait for it."""
    offsets = (0,) * sum(len(convolution.weights) for convolution in cell[0])
    with Watch() as watch:
        made = [
            *(t for t in tables(cell, META, 128) if isinstance(t, Tensor)),
            packing.weight_destinations(cell[0], offsets, 6, 128, META),
            packing._zero(META, torch.float16), packing.gather(cell[0], 0, 6, 128, META),
            arguments.integers((3, 1), META),
        ]  # fmt: skip
    assert {t.device for t in made} == {META}
    assert watch.seen == [("aten::_to_copy", True)] * len(made)


def test_full_caches_wait_for_their_devices_before_they_free(monkeypatch) -> None:
    waited: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    cuda = torch.device("cuda", 1)
    constants = DeviceConstants(lambda value, device: torch.full((3,), value), 2)
    kept = [constants(value, cuda) for value in (1.0, 2.0)]
    assert constants(1.0, cuda) is kept[0]
    assert waited == []
    constants(3.0, cuda)
    assert waited == [cuda]
    assert constants(1.0, cuda) is not kept[0]


def test_constants_of_a_captured_graph_are_kept(monkeypatch) -> None:
    capturing = True
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    constants = counted(limit=2)
    captured = [constants(value, CPU) for value in (1.0, 2.0, 3.0)]
    capturing = False
    for value in (4.0, 5.0, 6.0, 7.0):
        constants(value, CPU)
    for value, graph in zip((1.0, 2.0, 3.0), captured, strict=True):
        assert constants(value, CPU) is graph
    assert len(constants._kept) <= 3 + 2
