"""Load tests: one session answers several threads, and a broken one ends in one line."""

from __future__ import annotations

import os
import signal
import threading

import numpy as np
import pytest
from helpers.processes import children_of, wait_for_child
from helpers.small_models import SIDE, endless_where_high, residual_net
from onnx import helper

from hwnas.errors import InputError
from hwnas.latency_tables.measuring.serving import serve
from hwnas.latency_tables.runtimes.onnx import OnnxRuntimeCpu

IMAGES = {"x": np.zeros((1, 3, SIDE, SIDE), np.float32)}


def test_all_threads_are_answered() -> None:
    model = residual_net().SerializeToString()
    found = serve(OnnxRuntimeCpu(1), model, IMAGES, threads=3, seconds=0.4)
    assert found.errors == 0
    assert found.requests >= 3
    assert found.threads == 3
    assert found.throughput_per_s == pytest.approx(found.requests / found.seconds)
    assert 0 < found.latency["p50_ms"] <= found.seconds * 1e3


def test_a_killed_process_is_reported_as_an_input_error() -> None:
    before = children_of(os.getpid())

    def kill() -> None:
        os.kill(wait_for_child(os.getpid(), before), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(InputError, match="process that served the model was terminated"):
        serve(OnnxRuntimeCpu(1), residual_net().SerializeToString(), IMAGES, threads=1, seconds=60)
    killer.join()


def test_a_request_that_never_ends_is_stopped() -> None:
    """The model loops forever depending on a random number, so the first inference may succeed."""
    model = endless_where_high(0.9)
    most = next(node for node in model.graph.node if node.op_type == "ReduceMax")
    most.CopyFrom(helper.make_node("RandomUniformLike", ["zero"], ["most"]))
    feeds = {"x": np.zeros((1, 4), np.float32)}
    data = model.SerializeToString()
    with pytest.raises(InputError, match="process that served the model was terminated"):
        serve(OnnxRuntimeCpu(1), data, feeds, threads=2, seconds=0.5, limit_s=1)
