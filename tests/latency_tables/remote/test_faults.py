"""What goes wrong with a device: one line that says what to do, or the same result after all."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
from helpers.loopback import bare_python, write_device

from hwnas.errors import DeviceError, HwnasError, InputError, RuntimeMissingError
from hwnas.latency_tables.measuring.speed_reference import reference_graph
from hwnas.latency_tables.remote.choosing import runtime_on
from hwnas.latency_tables.remote.inventory import find_device
from hwnas.latency_tables.remote.probe import probe
from hwnas.latency_tables.remote.runtime import RemoteRuntime
from hwnas.latency_tables.timing import Protocol

GRAPH = reference_graph()
QUICK = Protocol(
    warmup_s=0.01, min_rounds=20, max_rounds=20, blocks_per_round=1, block_ms=0.2, max_repeats=0
)


def measured(runtime: RemoteRuntime, protocol: Protocol = QUICK, **options):
    calls = {"a": runtime.prepare_onnx(GRAPH.model, GRAPH.feeds)}
    return runtime.measure(calls, protocol, **options)["a"]


def refused(project: Path, server, **changes: object) -> HwnasError:
    """The error of a measurement on a device with other settings; always one line."""
    write_device(project, server, **changes)
    runtime = runtime_on("board", "onnxruntime-cpu", 1)
    with pytest.raises(HwnasError) as caught:  # noqa: PT012  # either may refuse
        runtime.require()
        measured(runtime)
    runtime.connection.close()
    assert caught.value.exit_code in (2, 3)
    assert len(str(caught.value).splitlines()) == 1
    assert str(caught.value).startswith("board: ")
    return caught.value


SERVE = "hwnas.latency_tables.on_device.serve"
LAUNCH = "code, sys.argv = sys.argv[2], ['-c', *sys.argv[3:]]\nexec(code)\n"
"""Does what `python -c CODE ARGUMENTS` does."""


def script(path: Path, text: str) -> str:
    """A program that other users may run."""
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


def test_an_unknown_and_a_changed_host_key_are_refused(inventory, server, monkeypatch) -> None:
    # A folder of sockets of its own: a connection that is open already needs no key again.
    (server.folder / "keys").mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(server.folder / "keys"))
    known = server.folder / "known_hosts"
    text = known.read_text()
    try:
        known.write_text("")
        assert "host key is not known; log in once with `ssh -p" in str(refused(inventory, server))
        other = (server.folder / "user_key.pub").read_text().split()[1]
        known.write_text(f"[127.0.0.1]:{server.port} ssh-ed25519 {other}\n")
        assert "another host key than the one that is known" in str(refused(inventory, server))
    finally:
        known.write_text(text)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"user": "nobody-of-this-name"}, "refuses the login"),
        (
            {"host": "no-such-host.invalid"},
            "the device cannot be reached, got ssh: Could not resolve",
        ),
        ({"port": 1}, "the device cannot be reached, got ssh: connect to host"),
        ({"python": "~/no such/python"}, "no such Python on the device"),
        ({"python": ["sh", "-c", "exit 96"]}, "the Python on the device is too old"),
        ({"python": ["sh", "-c", "head -c 100 >/dev/null; exit 97"]}, "script arrived changed"),
        ({"python": ["echo", "no JSON"]}, "the process on the device ended"),
        ({"governor": "performance"}, "another frequency governor is set"),
        ({"workdir": "/proc/hwnas"}, "cannot keep files in its work folder"),
    ],
)
def test_what_a_device_lacks_is_named(inventory, server, changes, message) -> None:
    if "governor" in changes and list(Path("/sys/devices/system/cpu/cpufreq").glob("policy*")):
        pytest.skip("this machine has a governor")
    error = refused(inventory, server, **changes)
    assert message in str(error)
    assert isinstance(error, DeviceError)


def test_a_python_of_another_architecture_is_named(inventory, server) -> None:
    header = b"\x7fELF\x02\x01\x01" + bytes(9) + (2).to_bytes(2, "little")
    program = server.folder / "foreign"
    # The header of a program for SPARC.
    program.write_bytes(header + (43).to_bytes(2, "little") + bytes(44))
    program.chmod(0o755)
    error = refused(inventory, server, python=str(program))
    assert "cannot run this Python, which may be of another architecture" in str(error)


def test_a_missing_library_is_named_with_the_command_that_installs_it(inventory, server) -> None:
    folder = server.folder / "without"
    if not folder.exists():
        bare_python(folder, leave_out=("onnxruntime",))
    python = str(folder / "bin" / "python")
    error = refused(inventory, server, python=python)
    assert isinstance(error, RuntimeMissingError)
    assert f"onnxruntime is not installed on the device; install it with `ssh -p {server.port} "
    assert f"{python} -m pip install onnxruntime numpy`" in str(error)
    found = probe(find_device("board"))
    assert not found.can_measure and "onnxruntime is not installed" in found.problems[0]


@pytest.mark.skipif(os.getuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_is_named(inventory, server) -> None:
    disk = server.folder / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k,mode=777", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        error = refused(inventory, server, workdir=str(disk / "work"))
        assert "cannot keep files in its work folder" in str(error)
        assert "No space left on device" in str(error)
        assert not list((disk / "work").glob("*.*"))
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_clock_that_is_wrong_by_a_year_is_said_and_changes_no_figure(inventory, server) -> None:
    python = server.folder / "python" / "bin" / "python"
    wrong = script(
        server.folder / "wrong",
        f"#!{python}\nimport sys, time\nnow = time.time\ntime.time = lambda: now() + 366 * 86400\n"
        f"{LAUNCH}",
    )
    write_device(inventory, server, python=wrong)
    found = probe(find_device("board"))
    assert found.can_measure and 0 < min(found.steadiness.sessions_ms) < 1000
    assert any("its clock is 366 days ahead" in problem for problem in found.problems)


def test_a_process_that_ends_every_time_is_an_error(inventory, server) -> None:
    python = server.folder / "python" / "bin" / "python"
    # Greets as it should, and dies once it has to measure.
    dying = script(
        server.folder / "dying",
        f"#!{python}\nimport os, sys\n"
        "dies = 'm.Server.measure = lambda *request: os._exit(1)'\n"
        f"code = sys.argv[2].replace('sys.modules[\"{SERVE}\"]', 'm')\n"
        f"sys.argv = ['-c', *sys.argv[3:]]\n"
        f"start, last = code.rsplit(';', 1)\n"
        f"exec(start + '; m = sys.modules[\"{SERVE}\"]; ' + dies + '; ' + last)\n",
    )
    write_device(inventory, server, python=dying)
    runtime = runtime_on("board", "onnxruntime-cpu", 1)
    runtime.require()
    with pytest.raises(DeviceError, match="its process ended 9 times during one request"):
        measured(runtime)


def kill_the_client(runtime: RemoteRuntime, server) -> None:
    runtime.connection._process._process.kill()


def kill_the_script(runtime: RemoteRuntime, server) -> None:
    for process in server.scripts():
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def restart_the_server(runtime: RemoteRuntime, server) -> None:
    server.stop()
    time.sleep(0.3)
    server.start()


@pytest.mark.parametrize("kill", [kill_the_client, kill_the_script, restart_the_server])
def test_a_lost_connection_costs_one_round(remote, server, kill, caplog) -> None:
    protocol = Protocol(
        warmup_s=0.01, min_rounds=60, max_rounds=60, blocks_per_round=1, block_ms=5, max_repeats=0
    )
    remote.require()
    seen: list[int] = []

    def progress(done: int, total: int) -> None:
        if done == 20 and 20 not in seen:
            kill(remote, server)
        seen.append(done)

    found = measured(remote, protocol, progress=progress)
    assert len(found.rounds_ms) == 60
    assert seen == sorted(seen) and set(seen) >= set(range(1, 61))
    assert "connecting again" in caplog.text and "connected again" in caplog.text


def test_leaving_a_measurement_ends_it_on_the_device(remote, server) -> None:
    long = Protocol(warmup_s=0.01, min_rounds=10**6, max_rounds=10**6, block_ms=5)

    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measured(remote, long, progress=stop)
    assert len(measured(remote).rounds_ms) == 20
    remote.connection.close()
    end = time.monotonic() + 5
    while server.scripts() and time.monotonic() < end:
        time.sleep(0.05)
    assert not server.scripts()


def test_another_device_under_the_same_name_is_refused(remote, monkeypatch) -> None:
    remote.require()
    facts = remote.connection.facts.model_copy(update={"device": "another processor"})
    monkeypatch.setattr(remote.connection, "_facts", facts)
    remote.connection.close()
    with pytest.raises(DeviceError, match="another device answers under this name"):
        measured(remote)


def test_a_provider_that_the_device_lacks_is_named(inventory) -> None:
    runtime = runtime_on("board", "onnxruntime-cuda", 1)
    with pytest.raises(RuntimeMissingError, match="no such execution provider, expected CUDA"):
        runtime.require()
    runtime.connection.close()
    with pytest.raises(InputError, match="measured on this machine only"):
        runtime_on("board", "torch-cpu", 1)


def test_threads_end_with_the_connection(remote) -> None:
    before = threading.active_count()
    remote.require()
    remote.connection.close()
    end = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < end:
        time.sleep(0.05)
    assert threading.active_count() <= before


@pytest.mark.parametrize(
    "answer, message",
    [
        ("no JSON", "sent something else than an answer, got no JSON"),
        ("[1]", "sent something else than an answer"),
        ('{"id": 1, "round": [0.0], "repeats": 0}', "sent no times of a round"),
        ('{"id": 1, "round": [1.0, 2.0], "repeats": 0}', "sent no times of a round"),
        ('{"id": 1, "round": ["1"], "repeats": 0}', "sent no times of a round"),
        ('{"id": 1, "round": [NaN], "repeats": 0}', "sent no times of a round"),
    ],
)
def test_answers_that_are_none_are_refused(inventory, server, answer, message) -> None:
    python = server.folder / "python" / "bin" / "python"
    says = f"self.answers.write({answer!r} + chr(10)) or self.answers.flush()"
    hostile = script(
        server.folder / "hostile",
        f"#!{python}\nimport sys\n"
        f"start, last = sys.argv[2].rsplit(';', 1)\n"
        f"sys.argv = ['-c', *sys.argv[3:]]\n"
        f"exec(start)\n"
        f"server = sys.modules['{SERVE}']\n"
        f"server.Server.missing = lambda self, request: []\n"
        f"server.Server.measure = lambda self, request: {says}\n"
        f"exec(last)\n",
    )
    write_device(inventory, server, python=hostile)
    runtime = runtime_on("board", "onnxruntime-cpu", 1)
    with pytest.raises(DeviceError, match=message):
        measured(runtime)
    runtime.connection.close()
