"""Claim: the latency of shrunk networks follows from the layers measured at pairs of widths.

The layers of ResNet-20 are measured at all pairs of the widths that `hwnas.shrink` offers. Then
random networks of the space are exported and measured in the same rounds, each in three sessions.
Their latencies are compared with the sums of the table, with the table after its correction by
three further measured networks, as the rounds of a run make it, and with multiply-accumulates.

    python benchmarks/shrink_latency.py [--networks 30] [--seconds 0.2]
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from results import append_row
from scipy.stats import spearmanr

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from helpers.plain_networks import ResNet

from hwnas.budget.cost import CostModel
from hwnas.budget.gate import measure_together
from hwnas.deploy.export import to_onnx
from hwnas.latency_tables.measuring.operator_calls import GROUP_SIZE
from hwnas.latency_tables.measuring.profiler import (
    PROFILE_PROTOCOL,
    profile_operators,
)
from hwnas.latency_tables.runtimes import create_runtime
from hwnas.latency_tables.statistics import summarise
from hwnas.pipeline.profile import inferences, operator_module
from hwnas.shrinking.space import shrink_space

SHAPE, SESSIONS, CORRECTING = (1, 14, 14), 3, 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=0.2, help="for each layer")
    parser.add_argument("--step", type=int, default=16, help="of the widths")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    space = shrink_space(
        ResNet(3, channels=1), torch.zeros(2, *SHAPE), step=arguments.step, most_operators=300
    )
    runtime, started = create_runtime("onnxruntime-cpu", 1), time.monotonic()
    table = profile_operators(
        space.all_operators(),
        runtime=runtime,
        build=partial(operator_module, space=space),
        to_onnx=to_onnx,
        batch=1,
        definitions=space.definitions(),
        protocol=replace(PROFILE_PROTOCOL, time_limit_s=GROUP_SIZE * arguments.seconds),
    )
    profiled_s = time.monotonic() - started
    rng = np.random.default_rng(0)
    networks = [space.sample(rng) for _ in range(arguments.networks + CORRECTING)]
    calls = {
        f"{index}/{session}": call
        for index, one in enumerate(networks)
        for session, call in enumerate(
            inferences(space.network(one).eval(), SHAPE, runtime, 1, SESSIONS)
        )
    }
    rounds_ms = measure_together(calls, runtime, seconds=120)
    measured = np.array(
        [
            np.mean([summarise(rounds_ms[f"{index}/{k}"], "p10").value_ms for k in range(SESSIONS)])
            for index in range(len(networks))
        ]
    )
    known, judged = slice(0, CORRECTING), slice(CORRECTING, None)
    cost = CostModel(space, table)
    corrected = cost.corrected(networks[known], measured[known])
    macs = np.array([space.params_and_macs(one)[1] for one in networks[judged]])
    row = {"network": "resnet20 14x14", "operators": len(table.operators), "n": arguments.networks}
    for name, model in (("table", cost), ("corrected", corrected)):
        predicted = model.predict(networks[judged])[0]
        errors = np.abs(predicted / measured[judged] - 1)
        row[f"{name}_spearman"] = float(spearmanr(predicted, measured[judged])[0])
        row[f"{name}_median_error"] = float(np.median(errors))
    row["macs_spearman"] = float(spearmanr(macs, measured[judged])[0])
    append_row("shrink_latency", row | {"profile_s": round(profiled_s, 1)})


if __name__ == "__main__":
    main()
