"""One session under several threads answers all of them."""

from __future__ import annotations

import multiprocessing
import threading
import time

import numpy as np
import pytest
from helpers.small_models import SIDE, endless_where_high, residual_net
from onnx import helper

from hwnas.errors import InputError
from hwnas.latency_tables.measuring.serving import serve
from hwnas.latency_tables.runtimes.onnx import OnnxRuntimeCpu
from hwnas.latency_tables.statistics import percentiles_ms


def test_threads_are_answered() -> None:
    feeds = {"x": np.zeros((1, 3, SIDE, SIDE), np.float32)}
    model = residual_net().SerializeToString()
    found = serve(OnnxRuntimeCpu(1), model, feeds, threads=3, seconds=0.4)
    assert found.errors == 0
    assert found.requests >= 3
    assert found.threads == 3
    assert found.throughput_per_s == pytest.approx(found.requests / found.seconds)
    assert 0 < found.latency["p50_ms"] <= found.seconds * 1e3


def test_a_process_that_is_killed_ends_in_one_line() -> None:
    feeds = {"x": np.zeros((1, 3, SIDE, SIDE), np.float32)}
    before = set(multiprocessing.active_children())

    def kill() -> None:
        while not (started := set(multiprocessing.active_children()) - before):
            time.sleep(0.01)
        started.pop().kill()

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(InputError, match="process that served the model was terminated"):
        serve(OnnxRuntimeCpu(1), residual_net().SerializeToString(), feeds, threads=1, seconds=60)
    killer.join()


def test_a_request_without_an_end_is_ended() -> None:
    """A number that the model draws itself decides, so that the first inference may be answered."""
    model = endless_where_high(0.9)
    most = next(node for node in model.graph.node if node.op_type == "ReduceMax")
    most.CopyFrom(helper.make_node("RandomUniformLike", ["zero"], ["most"]))
    feeds = {"x": np.zeros((1, 4), np.float32)}
    data = model.SerializeToString()
    with pytest.raises(InputError, match="process that served the model was terminated"):
        serve(OnnxRuntimeCpu(1), data, feeds, threads=2, seconds=0.5, limit_s=1)


def test_percentiles_wait_for_enough_samples() -> None:
    samples = list(range(1, 1001))
    found = {n: percentiles_ms(samples[:n]) for n in (1, 63, 64, 661, 662)}
    assert [found[n]["p90_ms"] is None for n in found] == [True, True, False, False, False]
    assert [found[n]["p99_ms"] is None for n in found] == [True] * 4 + [False]
    assert found[662]["p50_ms"] == np.median(samples[:662])
    assert found[662]["samples"] == 662
