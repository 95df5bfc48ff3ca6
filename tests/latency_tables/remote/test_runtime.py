"""Measurements on a device that is logged in to: a real OpenSSH server on the loopback address."""

from __future__ import annotations

import hashlib
import json
import subprocess
import tomllib

import numpy as np
import pytest
import tomli_w
from helpers.loopback import write_device

from hwnas.budget.gate import measure_network
from hwnas.errors import DeviceError, InputError
from hwnas.latency_tables.measuring.speed_reference import reference_graph
from hwnas.latency_tables.remote.choosing import runtime_on
from hwnas.latency_tables.remote.inventory import find_device
from hwnas.latency_tables.remote.pool import RemotePool
from hwnas.latency_tables.remote.runtime import RemoteRuntime
from hwnas.latency_tables.runtimes import OnnxRuntimeCpu
from hwnas.latency_tables.timing import Protocol

QUICK = Protocol(
    warmup_s=0.01, min_rounds=20, max_rounds=20, blocks_per_round=1, block_ms=0.2, max_repeats=0
)
GRAPH = reference_graph()


def call_of(runtime: RemoteRuntime):
    return runtime.prepare_onnx(GRAPH.model, GRAPH.feeds)


def test_a_model_is_measured_and_computed_there(remote, server) -> None:
    here = OnnxRuntimeCpu(1)
    remote.require()
    rounds = []
    found = remote.measure(
        {"a": call_of(remote), "b": call_of(remote)},
        QUICK,
        progress=lambda done, total: rounds.append((done, total)),
    )
    assert [len(result.rounds_ms) for result in found.values()] == [20, 20]
    assert rounds[-1] == (20, 20)
    profile = remote.profile(dtype="float32", batch=1)
    assert profile.device == here.device_name()
    assert profile.runtime == "onnxruntime-cpu"
    assert set(profile.versions) == {"python", "onnxruntime", "numpy"}
    there = remote.infer(GRAPH.model)(GRAPH.feeds)
    np.testing.assert_allclose(
        there["y"], here.infer(GRAPH.model)(GRAPH.feeds)["y"], rtol=1e-5, atol=1e-5
    )
    calls = remote.single_calls_ms(call_of(remote), calls=5, seconds=9, few=1, few_seconds=9)
    assert len(calls) == 5 and min(calls) > 0
    # Everything lies under its hash, was sent once, and is removed without a trace.
    files = {path.name for path in (server.home / ".cache" / "hwnas").iterdir()}
    call = call_of(remote)
    assert files == {call.model.model, call.model.feeds, "lock"}
    assert remote.connection.ask("missing", digests=sorted(call.files)) == []
    assert remote.connection.ask("clean")["files"] == 2
    assert not (server.home / ".cache" / "hwnas").exists()


def test_a_measurement_stops_as_soon_as_it_is_precise_enough(remote) -> None:
    protocol = Protocol(warmup_s=0.01, min_rounds=2, max_rounds=100_000, half_width=1e-9)
    found = remote.measure({"a": call_of(remote)}, protocol, stop=lambda summaries: True)
    assert len(found["a"].rounds_ms) == 2
    assert remote.connection.state is not None
    assert remote.connection.state.seconds < 5


def test_a_model_that_the_device_refuses_is_refused_in_one_line(remote) -> None:
    with pytest.raises(InputError, match="board: ONNX Runtime on the device cannot run the model"):
        remote.measure({"a": remote.prepare_onnx(b"no model", {"x": np.zeros(1)})}, QUICK)
    assert remote.measure({"a": call_of(remote)}, QUICK)["a"].status in ("ok", "noisy")


def test_models_that_were_used_least_recently_make_room(inventory, server) -> None:
    write_device(inventory, server, disk_mb=0.002, workdir="~/small folder")
    runtime = RemoteRuntime(find_device("board"), "onnxruntime-cpu", 1)
    connection = runtime.connection
    contents = [bytes([i]) * 900 for i in range(3)]
    files = [{hashlib.sha256(content).hexdigest(): content} for content in contents]
    try:
        for one in files:
            connection.ask("facts", one)
        kept = {path.name for path in (server.home / "small folder").iterdir()}
        assert kept == {*files[1], *files[2]}
        connection.ask("clean")
    finally:
        connection.close()


def test_two_processes_take_turns(remote, inventory, caplog) -> None:
    """One holds the lock, as another search would; the measurement waits and says for whom."""
    caplog.set_level("INFO", logger="hwnas")
    workdir = remote.connection.facts.workdir
    remote.measure({"a": call_of(remote)}, QUICK)
    holder = subprocess.Popen(
        ["python3", "-c", HOLD_LOCK, f"{workdir}/lock"], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    found = remote.measure({"a": call_of(remote)}, QUICK)
    holder.wait()
    assert len(found["a"].rounds_ms) == 20
    assert "board is measuring for the other search" in caplog.text


HOLD_LOCK = """
import fcntl, os, sys, time
lock = open(sys.argv[1], "w")
os.chmod(sys.argv[1], 0o666)
fcntl.flock(lock, fcntl.LOCK_EX)
lock.write("the other search")
lock.flush()
print("held", flush=True)
time.sleep(0.6)
"""


def test_the_command_line_probes_and_cleans(inventory, cli) -> None:
    code, out, _ = cli("devices", "probe", "board", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["can_measure"] and len(found["steadiness"]["sessions_ms"]) == 3
    assert abs(found["clock_off_s"]) < 30
    code, out, _ = cli("devices", "clean", "board")
    assert code == 0 and "files removed" in out
    assert cli("devices", "list")[1].startswith("board ")


def test_a_pool_measures_on_all_its_devices_at_the_same_time(inventory, server) -> None:
    stated = tomllib.loads((inventory / "devices.toml").read_text())["board"]
    devices = {
        "left": stated | {"workdir": "~/left"},
        "right": stated | {"workdir": "~/right"},
        "both": {"members": ["left", "right"]},
    }
    (inventory / "devices.toml").write_text(tomli_w.dumps(devices))
    pool = runtime_on("both", "onnxruntime-cpu", 1)
    assert isinstance(pool, RemotePool)
    pool.require()
    try:
        latency = measure_network(lambda: call_of(pool), pool, budget_ms=None, seconds=60.0)
        assert len(latency.sessions_ms) == 3
        for member in pool.members:
            assert len(list((server.home / member.place).iterdir())) == 3
            member.connection.ask("clean")
    finally:
        for member in pool.members:
            member.connection.close()


def test_members_of_a_pool_that_differ_are_refused(remote) -> None:
    other = RemoteRuntime(remote.device, "onnxruntime-cpu", 1)
    pool = RemotePool("both", [remote, other])
    facts = other.connection.facts
    other.connection._facts = facts.model_copy(
        update={"versions": facts.versions | {"onnxruntime": "1.0"}}
    )
    with pytest.raises(DeviceError, match="pool both: board differs from board, got versions"):
        pool.require()
    other.connection.close()
