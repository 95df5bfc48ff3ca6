"""Claim: networks for five budgets come from one training, in at most twice the time of one.

A network is trained on a part of Fashion-MNIST as in `shrink.py`, and brought to five shares of its
own measured latency: by one call of `hwnas.shrink` with all budgets, whose networks share their
weights in one training, and by one call for each. Each row is one network: `together` has the
seconds of the call for all in each of its rows. Beside the seconds by the clock stand those of the
processor, which other work on the machine changes less.

    python benchmarks/shrink_family.py --network resnet20 --samples 3000 --seeds 0
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from results import append_row
from shrink import NETWORKS, settings, shrunk, small_images, trained
from shrink_baselines import latency_ms, score
from torch import nn

import hwnas
from hwnas.data import Dataset

SHARES = (0.8, 0.667, 0.5, 0.4, 0.333)
METHODS = ["together", "alone"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=NETWORKS, default="resnet20")
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--methods", choices=METHODS, nargs="+", default=METHODS)
    parser.add_argument("--samples", type=int, default=3000)
    parser.add_argument("--tests", type=int, default=2000)
    parser.add_argument("--teacher-epochs", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=6, help="of each network by itself")
    parser.add_argument("--shared-epochs", type=int, default=12, help="of all together")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = small_images("fashion-mnist-slice", arguments.samples, arguments.tests)
    channels, height, _ = data.input_shape
    for seed in arguments.seeds:
        torch.manual_seed(seed)
        model = NETWORKS[arguments.network](channels, height)
        teacher = trained(model, data, arguments.teacher_epochs, seed)
        whole_ms = latency_ms(teacher, data)
        facts = {
            "network": arguments.network,
            "data": f"{data.name} {height}x{height}, {arguments.samples} samples",
            "seed": seed,
            "accuracy_original": score(teacher, data),
            "ms_original": whole_ms,
        }
        budgets_ms = [share * whole_ms for share in arguments.shares]
        if "together" in arguments.methods:
            clock = Clock()
            with TemporaryDirectory() as folder:
                found = together(
                    teacher, data, budgets_ms, seed, arguments.shared_epochs, Path(folder) / "run"
                )
            spent = clock.spent()
            for share, budget_ms, one in zip(arguments.shares, budgets_ms, found, strict=True):
                row = figures(share, budget_ms, "together", arguments.shared_epochs, *one, data)
                append_row("shrink_family", facts | row | spent)
        for share, budget_ms in zip(arguments.shares, budgets_ms, strict=True):
            if "alone" not in arguments.methods:
                break
            clock = Clock()
            with TemporaryDirectory() as folder:
                out = Path(folder) / "run"
                one = shrunk(teacher, data, budget_ms, seed, arguments.epochs, out)
            spent = clock.spent()
            row = figures(share, budget_ms, "alone", arguments.epochs, *one, data)
            append_row("shrink_family", facts | row | spent)


class Clock:
    """Seconds by the clock, and of the processor with those of processes that were started."""

    def __init__(self) -> None:
        self.begun = self._now()

    def spent(self) -> dict[str, float]:
        names = ("seconds", "processor_seconds")
        pairs = zip(names, self._now(), self.begun, strict=True)
        return {name: round(now - before, 1) for name, now, before in pairs}

    def _now(self) -> tuple[float, float]:
        used = [resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return time.monotonic(), sum(one.ru_utime + one.ru_stime for one in used)


def together(
    model: nn.Module, data: Dataset, budgets_ms: list[float], seed: int, epochs: int, out: Path
) -> list[tuple[nn.Module, str]]:
    """A network for each budget from one training, and the verdicts."""
    first = hwnas.shrink(
        model,
        data,
        out,
        budget_ms=budgets_ms,
        epochs=epochs,
        seed=seed,
        show_progress=False,
        settings=settings(1),
    )
    return [(one.model, one.verdict) for one in (first, *first.family)]


def figures(
    share: float,
    budget_ms: float,
    method: str,
    epochs: int,
    network: nn.Module,
    verdict: str,
    data: Dataset,
) -> dict[str, object]:
    """What a row says of one network."""
    return {
        "share": round(share, 3),
        "method": method,
        "epochs": epochs,
        "accuracy": score(network, data),
        "budget_ms": budget_ms,
        "ms": latency_ms(network, data),
        "verdict": verdict,
        "params": sum(p.numel() for p in network.parameters()),
    }


if __name__ == "__main__":
    main()
