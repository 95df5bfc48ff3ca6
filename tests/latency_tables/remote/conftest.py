"""A device on the loopback address, and a runtime on it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.loopback import (
    NAME,
    Server,
    bare_python,
    client_config,
    open_folder,
    serve,
    write_device,
)

from hwnas.latency_tables.remote.choosing import runtime_on
from hwnas.latency_tables.remote.runtime import RemoteRuntime


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """An OpenSSH server of an ordinary user, whose Python has onnxruntime and numpy alone."""
    with open_folder() as folder:
        running = serve(folder)
        bare_python(folder / "python")
        try:
            yield running
        finally:
            running.stop()


@pytest.fixture
def inventory(server, monkeypatch, tmp_path) -> Path:
    """A project folder, with a `devices.toml` that names the server `board`."""
    monkeypatch.setenv("PATH", f"{client_config(server)}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(server.folder))
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.chdir(project)
    write_device(project, server)
    return project


@pytest.fixture
def remote(inventory) -> Iterator[RemoteRuntime]:
    """ONNX Runtime on the server."""
    runtime = runtime_on(NAME, "onnxruntime-cpu", threads=1)
    assert isinstance(runtime, RemoteRuntime)
    yield runtime
    runtime.connection.close()
