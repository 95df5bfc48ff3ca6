"""Claim: with small tensors fused operators are faster than plain PyTorch too.

There the time goes to Python, not to arithmetic. The parts have rows of their own:

- `host`: what a normal cell costs outside the kernels, forward and backward, with the compiled
  library's programs replaced by nothing.
- `step`: the search step of the configuration `darts_slice` (a weights and an architecture step).
- `sweep`: one mixed operator over batches, widths and sizes, beside plain PyTorch in channels_last
  and the project's own plain version.
- `alternating`: one mixed operator in strict alternation with others, whose tensors push its own
  out of the caches (elsewhere each timed call follows an untimed one); `alternating_prepared` is
  the same for a cell that is prepared and has flat tensors, as in supernets.

Everything is CPU time of one thread, so that other processes of a shared machine count less; the
variants run in turn in one process, and a row has the median and the range of the paired ratios.

    python benchmarks/small_shapes.py [--parts host,step,sweep,alternating] [--rounds 9] [--save]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import numpy as np
import torch
from baselines import cell, eager_edge
from bench_mixed_op import Case, Tensors, fused, interleaved, require_correct
from results import append_row
from search_step import SearchStep

from hwnas import kernels
from hwnas.config import load_config
from hwnas.kernels.cpu.program import Program

LARGEST = 64 * 16 * 32 * 32
"""Elements of an activation beyond which `bench_mixed_op.py` measures."""


def compared(facts: dict[str, Any], times: dict[str, np.ndarray]) -> Iterator[dict[str, Any]]:
    """A row for each baseline: `fused` beside it."""
    for baseline in times.keys() - {"fused"}:
        ratios = times[baseline] / times["fused"]
        yield facts | {
            "fused_ms": float(np.median(times["fused"])),
            "baseline": baseline,
            "baseline_ms": float(np.median(times[baseline])),
            "ratio_median": float(np.median(ratios)),
            "ratio_low": float(ratios.min()),
            "ratio_high": float(ratios.max()),
        }


def nothing(*arguments: Any) -> None:
    """Takes the place of the kernels."""


def host(rounds: int) -> Iterator[dict[str, Any]]:
    """Rows of a normal cell without its kernels; the baseline is the cell with them."""
    for n, c, size in ((16, 8, 14), (64, 16, 32)):
        case = Case("normal_cell", n, c, size)
        tensors = Tensors(case, "cpu", torch.float32, torch.channels_last, is_flat=True)
        prepared = kernels.Cell(len(tensors.inputs), tensors.edges)

        def step(t: Tensors = tensors, prepared: kernels.Cell = prepared) -> None:
            t.step(lambda t: prepared(t.inputs, t.weights, impl="cpu"))

        def without_kernels(step: Callable[[], None] = step) -> None:
            with mock.patch.object(Program, "run", nothing):
                step()

        times = interleaved({"fused": without_kernels, "with_kernels": step}, 3 * rounds, "cpu")
        yield from compared({"part": "host", "n": n, "c": c, "size": size}, times)


def default_step(impl: str) -> tuple[dict[str, int], SearchStep]:
    """Sizes and the search step of the configuration `darts_slice`."""
    config = load_config("darts_slice")
    options = dict(config.space.options)
    sizes = {"n": config.search.batch_size, "c": int(config.search.proxy["channels"]), "size": 28}
    chosen = {k: options[k] for k in ("cells", "stem_multiplier", "stem_stride")}
    return sizes, SearchStep(*sizes.values(), "cpu", impl, "nothing", **chosen)


def step(rounds: int) -> Iterator[dict[str, Any]]:
    """Rows of the search step of the configuration `darts_slice`."""
    sizes, ours = default_step("cpu")
    steps = {"fused": ours, "impl_torch": default_step("torch")[1]}
    losses = [float(s.loss(s.weights).detach()) for s in steps.values()]
    assert abs(losses[0] - losses[1]) < 1e-4, losses
    times = interleaved({name: s.run for name, s in steps.items()}, rounds, "cpu")
    yield from compared({"part": "step"} | sizes, times)


def sweep(rounds: int) -> Iterator[dict[str, Any]]:
    """Rows of single operators."""
    for n in (1, 4, 16, 64):
        for c in (4, 8, 16, 32, 64):
            for size in (4, 8, 16, 32):
                if n * c * size * size > LARGEST:
                    continue
                case = Case("edge", n, c, size)
                last = Tensors(case, "cpu", torch.float32, torch.channels_last)
                variants = {
                    "fused": fused("auto", "nothing"),
                    "impl_torch": fused("torch", "nothing"),
                    "eager_channels_last": lambda t: cell(t.inputs, t.weights, t.edges, eager_edge),
                }
                if n * size * size >= 64:  # statistics of fewer values amplify rounding errors
                    require_correct(case, {name: (last, run) for name, run in variants.items()})
                times = interleaved(
                    {name: lambda t=last, run=run: t.step(run) for name, run in variants.items()},
                    rounds,
                    "cpu",
                )
                yield from compared({"part": "sweep", "n": n, "c": c, "size": size}, times)


def alternating(rounds: int) -> Iterator[dict[str, Any]]:
    """Rows of one small operator whose variants alternate."""
    n, c, size = 4, 16, 16
    case = Case("edge", n, c, size)
    separate, flat = (
        Tensors(case, "cpu", torch.float32, torch.channels_last, is_flat=is_flat)
        for is_flat in (False, True)
    )
    prepared = kernels.Cell(1, flat.edges)
    variants = {
        "fused": lambda: separate.step(fused("auto", "nothing")),
        "prepared": lambda: flat.step(lambda t: prepared(t.inputs, t.weights)),
        "eager_channels_last": lambda: separate.step(
            lambda t: cell(t.inputs, t.weights, t.edges, eager_edge)
        ),
    }
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(10 * rounds + 10):
        for name, run in variants.items():
            start = time.process_time()
            run()
            seconds[name].append(time.process_time() - start)
    times = {name: 1e3 * np.array(found[10:]) for name, found in seconds.items()}
    baseline = {"eager_channels_last": times["eager_channels_last"]}
    sizes = {"n": n, "c": c, "size": size}
    yield from compared({"part": "alternating"} | sizes, {"fused": times["fused"]} | baseline)
    yield from compared(
        {"part": "alternating_prepared"} | sizes, {"fused": times["prepared"]} | baseline
    )


PARTS = {"host": host, "step": step, "sweep": sweep, "alternating": alternating}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--save", action="store_true", help="append to results/small_shapes.csv")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for part in arguments.parts.split(","):
        for row in PARTS[part](arguments.rounds):
            print(
                f"{row['part']} n={row['n']} c={row['c']} size={row['size']}: "
                f"{row['fused_ms']:.2f} ms, {row['baseline']} {row['baseline_ms']:.2f} ms, "
                f"{row['ratio_median']:.2f}x ({row['ratio_low']:.2f} to {row['ratio_high']:.2f})",
                flush=True,
            )
            if arguments.save:
                append_row("small_shapes", row, quiet=True)


if __name__ == "__main__":
    main()
