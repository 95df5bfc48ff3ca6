"""Search steps that are recorded and replayed, without a GPU: what a CUDA graph would do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from helpers.captured import Captured, capture
from helpers.supernet_searches import CONFIG, make_search
from helpers.tiny import TINY_SIZES, tiny_space
from helpers.waits import Watch
from torch import Tensor

from hwnas.architecture import Mixture
from hwnas.config import SearchConfig
from hwnas.spaces import SPACES
from hwnas.supernet import search as search_module
from hwnas.supernet.graphs import REHEARSALS, StepGraph
from hwnas.supernet.search import SupernetSearch

FIGURES = ("loss", "validation_loss", "multiplier", "entropy")


class Recorder:
    """Records operators instead of launches, and like a CUDA graph computes nothing meanwhile.

    Attributes:
        search: whose tensors are put back after a recording.
        waits: what would have waited for a device, or would have copied to it.
        replays: how often recordings were replayed.
    """

    made: list[Recorder] = []

    def __init__(self) -> None:
        self.search: SupernetSearch | None = None
        self.recordings: list[Captured] = []
        self.waits: dict[str, int] = {}
        self.replays = 0
        Recorder.made.append(self)

    def rehearse(self, compute: Callable[[], Any]) -> Any:
        return compute()

    def record(self, compute: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        before = [(t, t.clone()) for t in self._lasting()]
        with Watch() as watch, capture() as captured:
            found = compute()
        for tensor, value in before:
            tensor.detach().copy_(value)
        self.waits |= watch.found
        self.recordings.append(captured)

        def replay() -> None:
            self.replays += 1
            with torch.no_grad():
                captured.replay()

        return replay, found

    def _lasting(self) -> Iterator[Tensor]:
        assert self.search is not None
        yield from (t.detach() for t in self.search.supernet.parameters())
        yield from self.search.supernet.buffers()
        for state in self.search.optimizer.state.values():
            yield from (value for value in state.values() if isinstance(value, Tensor))


@pytest.fixture(autouse=True)
def _recorder(monkeypatch) -> None:
    Recorder.made.clear()
    monkeypatch.setattr(search_module, "CudaRecorder", Recorder)


def recorded(space: str, config: SearchConfig, **options: Any) -> SupernetSearch:
    loop = make_search(space, config.model_copy(update={"cuda_graph": True}), **options)
    Recorder.made[-1].search = loop
    return loop


def state_of(loop: SupernetSearch) -> list[Tensor]:
    weights = [t.double() for t in loop.supernet.state_dict().values()]
    return [*weights, loop.strategy.ask().weights]


@pytest.mark.parametrize("space, optimizer", [("nasbench201", "sgd"), ("mbconv", "adamw")])
def test_a_search_of_replayed_steps_is_the_search(space, optimizer) -> None:
    """Batches, mixtures and learning rates change from step to step, and so do results."""
    config = CONFIG.model_copy(update={"steps": 14, "warmup": 0.2, "optimizer": optimizer})
    plain, replayed = make_search(space, config), recorded(space, config)
    for _ in range(config.steps):
        expected, found = plain.advance(), replayed.advance()
        known = [name for name in FIGURES if expected[name] is not None]
        for name in known:
            assert found[name] == pytest.approx(expected[name], rel=1e-4), name
    for mine, theirs in zip(state_of(replayed), state_of(plain), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5)
    (recorder,) = Recorder.made
    architecture_steps = config.steps - plain.warmup_steps
    assert recorder.replays == config.steps + architecture_steps - 2 * REHEARSALS


def test_a_recording_reads_no_number_and_draws_none() -> None:
    loop = recorded("darts", CONFIG.model_copy(update={"steps": 4, "warmup": 0.0}))
    for _ in range(4):
        loop.advance()
    (recorder,) = Recorder.made
    assert len(recorder.recordings) == 2
    assert recorder.waits == {}
    for recording in recorder.recordings:
        drawn = [f for f in recording.functions() if torch.Tag.nondeterministic_seeded in f.tags]
        assert drawn == []


def test_what_a_resumed_search_loads_stays_beside_the_weights(tmp_path) -> None:
    loop = recorded("nasbench201", CONFIG)
    for _ in range(CONFIG.steps - 1):
        loop.advance()
    torch.save(loop.state_dict(), tmp_path / "state")
    resumed = recorded("nasbench201", CONFIG)
    rate = resumed.optimizer.param_groups[0]["lr"]
    resumed.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    assert resumed.optimizer.param_groups[0]["lr"] is rate
    found, expected = resumed.advance(), loop.advance()
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    assert len(Recorder.made) == 3, "the recordings of before hold other moments"


@pytest.mark.parametrize("name", sorted(SPACES))
def test_a_supernet_in_evaluation_follows_new_values(name) -> None:
    """Of the mixture, the images and all weights and statistics."""
    torch.manual_seed(0)
    space = tiny_space(name)
    supernet = space.supernet().eval()
    weights = 0.5 * space.mask
    images = torch.randn(2, TINY_SIZES["input_channels"], 9, 7)
    values = [*supernet.parameters(), *supernet.buffers(), images]
    with torch.no_grad():
        supernet(images, Mixture(weights))  # what is computed at the first call may be kept
        with Watch() as watch, capture() as captured:
            found = supernet(images, Mixture(weights))
        before = found.clone()
        for tensor in values:
            if tensor.is_floating_point():
                tensor.mul_(1 + 0.1 * torch.rand_like(tensor))
        weights.mul_(1 + torch.rand_like(weights))
        captured.replay()
        replayed = found.clone()
        anew = supernet(images, Mixture(weights))
    assert watch.found == {}
    torch.testing.assert_close(replayed, anew)
    assert not torch.allclose(before, anew)


def test_inputs_of_another_shape_are_computed_without_the_recording() -> None:
    calls: list[int] = []

    def double(x: Tensor) -> tuple[Tensor, ...]:
        calls.append(len(x))
        return (2 * x,)

    recorder = Recorder()
    recorder.search = make_search("nasbench201", CONFIG)
    graph = StepGraph(double, recorder)
    for value in range(REHEARSALS + 2):
        (found,) = graph(torch.full((3,), float(value)))
        assert found.tolist() == [2.0 * value] * 3
    assert calls == [3] * (REHEARSALS + 1)
    assert graph(torch.ones(2))[0].tolist() == [2.0, 2.0]
    assert graph(torch.ones(3))[0].tolist() == [2.0, 2.0, 2.0]
    assert calls == [3] * (REHEARSALS + 1) + [2]
