"""The search loop: resuming, the effect of the budget, the history, and non-finite losses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.supernet_searches import (
    CONFIG,
    assert_same_weights,
    make_search,
    run_with_interruptions,
)

from hwnas.architecture import Mixture
from hwnas.errors import HwnasError
from hwnas.nn.mixed_op import use_kernels
from hwnas.runs.loop import is_sparse_record
from hwnas.runs.progress import silent
from hwnas.runs.run_folder import RunFolder
from hwnas.supernet.evaluate import evaluate_mixture


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("space", ["darts", "nasbench201"])
def test_resumed_search_is_bit_identical(space: str, order: int, tmp_path) -> None:
    config = CONFIG.model_copy(update={"order": order})
    whole = make_search(space, config)
    while whole.step < config.steps:
        whole.advance()
    resumed = run_with_interruptions(lambda: make_search(space, config), tmp_path, 5)
    assert resumed.step == config.steps
    assert resumed.multiplier == whole.multiplier
    assert torch.equal(resumed.strategy.ask().weights, whole.strategy.ask().weights)
    assert_same_weights(resumed.supernet, whole.supernet)


def test_tight_budget_lowers_the_expected_latency() -> None:
    config = CONFIG.model_copy(update={"steps": 30})
    latencies = {}
    for share in (0.02, 1.0):
        loop = make_search("darts", config, share)
        records = [loop.advance() for _ in range(config.steps)]
        latencies[share] = records[-1]["latency_ms"]
        warm = records[: loop.warmup_steps]
        assert all(r["multiplier"] == 0 and r["validation_loss"] is None for r in warm)
        assert (records[-1]["multiplier"] > 0) == (share == 0.02)
    assert latencies[0.02] < 0.8 * latencies[1.0]


def test_entropy_of_the_choices_falls_during_the_search() -> None:
    settings = {"darts": {"learning_rate": 0.2, "beta_decay": 0.0}}
    config = CONFIG.model_copy(update={"steps": 30, "settings": settings})
    loop = make_search("nasbench201", config)
    entropies = [loop.advance()["entropy"] for _ in range(config.steps)]
    assert entropies[0] > 0.99
    assert entropies[-1] < 0.95


def test_probabilities_are_recorded_every_tenth_step_and_at_the_end(tmp_path) -> None:
    config = CONFIG.model_copy(update={"steps": 25})
    loop = make_search("nasbench201", config)
    folder = RunFolder(tmp_path)
    folder.create()
    with silent("search") as advance:
        loop.run(folder, advance)
    records = folder.read_history()
    assert [r["step"] for r in records if "probabilities" in r] == [10, 20, 25]
    last = loop.strategy.probabilities()
    assert last is not None
    np.testing.assert_allclose(records[-1]["probabilities"], last, atol=6e-5)


@pytest.mark.parametrize("steps, log_every", [(1, 1), (12, 10), (600, 10), (50_000, 10), (777, 1)])
def test_there_are_about_a_hundred_sparse_records(steps: int, log_every: int) -> None:
    sparse = [
        step
        for step in range(1, steps + 1)
        if (step % log_every == 0 or step == steps) and is_sparse_record(step, steps, log_every)
    ]
    assert min(100, steps // log_every) // 2 <= len(sparse) <= 101
    assert sparse[-1] == steps


def test_non_finite_loss_stops_the_search() -> None:
    loop = make_search("nasbench201", CONFIG)
    with torch.no_grad():
        loop.supernet.head.classifier.fc.bias.fill_(float("nan"))
    with pytest.raises(HwnasError, match="no longer finite"):
        loop.advance()


@pytest.mark.parametrize("space_name", ["darts", "nasbench201"])
def test_fused_and_plain_search_agree_in_float64(space_name: str) -> None:
    """In float32, rounding makes any two implementations diverge within some dozen steps."""
    courses = {}
    for impl in ("torch", "cpu"):
        search = make_search(space_name, CONFIG)
        search.supernet.double()
        use_kernels(search.supernet, impl, "nothing")
        course = []
        for step in range(CONFIG.steps):
            search.step = step
            mixture = search.strategy.ask()
            images, labels = search.training.batch(step)
            held_out = search.validation.batch(step)
            outcome = evaluate_mixture(
                search.supernet,
                search.limits,
                Mixture(mixture.weights.double()),
                (held_out[0].double(), held_out[1]),
                multiplier=0.3,
                with_gradient=True,
            )
            search.strategy.tell(mixture, outcome, step / CONFIG.steps)
            after = search.strategy.ask().detach()
            loss = search._weights_step(Mixture(after.weights.double()), (images.double(), labels))
            course.append(torch.cat([torch.tensor([loss, outcome.loss]), after.weights.flatten()]))
        weights = torch.cat([p.detach().flatten() for p in search.supernet.parameters()])
        courses[impl] = torch.stack(course).double(), weights
    for plain, fused in zip(*courses.values(), strict=True):
        torch.testing.assert_close(fused, plain, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("space_name", ["darts", "nasbench201"])
def test_first_step_of_fused_and_plain_search_agree_in_float32(space_name: str) -> None:
    outcomes = {}
    for impl in ("torch", "cpu"):
        search = make_search(space_name, CONFIG)
        use_kernels(search.supernet, impl, "nothing")
        mixture = search.strategy.ask()
        outcome = evaluate_mixture(
            search.supernet,
            search.limits,
            mixture,
            search.validation.batch(0),
            multiplier=0.3,
            with_gradient=True,
        )
        images, labels = search.training.batch(0)
        loss = torch.nn.functional.cross_entropy(search.supernet(images, mixture.detach()), labels)
        gradients = torch.autograd.grad(loss, list(search.supernet.parameters()), allow_unused=True)
        flat = torch.cat([g.flatten() for g in gradients if g is not None])
        outcomes[impl] = [torch.tensor([outcome.loss, loss.item()]), outcome.gradient, flat]
    for plain, fused in zip(*outcomes.values(), strict=True):
        torch.testing.assert_close(fused, plain, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("storage", ["exact", "bfloat16"])
def test_recomputing_activations_gives_a_bit_identical_search(storage) -> None:
    weights = []
    for recompute in ("nothing", "all"):
        search = make_search("darts", CONFIG)
        use_kernels(search.supernet, "auto", recompute, storage)
        for _ in range(4):
            search.advance()
        weights.append(torch.cat([p.detach().flatten() for p in search.supernet.parameters()]))
    assert torch.equal(*weights)
