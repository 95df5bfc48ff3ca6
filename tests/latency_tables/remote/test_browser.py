"""onnxruntime-web in headless Chromium, as a device; and its rounds against those of Python."""

from __future__ import annotations

import json
import shutil
import subprocess
import types
from importlib import resources

import numpy as np
import pytest
from helpers.web import web_package

from hwnas.errors import InputError, RuntimeMissingError
from hwnas.latency_tables.measuring.speed_reference import reference_graph
from hwnas.latency_tables.on_device.measure import rounds
from hwnas.latency_tables.remote import browser
from hwnas.latency_tables.remote.choosing import runtime_on
from hwnas.latency_tables.remote.inventory import Device
from hwnas.latency_tables.remote.runtime import RemoteRuntime
from hwnas.latency_tables.runtimes import OnnxRuntimeCpu
from hwnas.latency_tables.timing import Protocol

PROTOCOL = {
    "warmup_s": 0.01,
    "block_ms": 1.0,
    "blocks_per_round": 3,
    "max_rounds": 12,
    "time_limit_s": 0.35,
    "sentinel_drift": 0.05,
    "max_repeats": 2,
}
# A clock that the calls alone advance; the first function has a slow spell.
TIMES = {"costs_ms": [0.21, 3.4], "slow": [60, 90], "factor": 1.7}
NODE = """
const {rounds} = require(process.argv[1]);
const {protocol, times} = JSON.parse(process.argv[2]);
let now = 0, count = 0;
const log = [];
const calls = times.costs_ms.map((cost, i) => async () => {
  count += 1;
  const slow = i === 0 && count >= times.slow[0] && count < times.slow[1];
  now += cost * (slow ? times.factor : 1);
  log.push(i);
});
(async () => {
  const found = [];
  for await (const round of rounds(calls, protocol, () => now)) found.push(round);
  console.log(JSON.stringify({found, log}));
})();
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="no node")
def test_the_rounds_of_a_page_are_those_of_python() -> None:
    script = resources.files("hwnas.latency_tables.on_device") / "page.js"
    given = json.dumps({"protocol": PROTOCOL, "times": TIMES})
    done = subprocess.run(
        ["node", "-e", NODE, str(script), given], capture_output=True, text=True, check=True
    )
    page = json.loads(done.stdout)
    now_ms, count, log = 0.0, 0, []

    def call(index: int):
        def run() -> None:
            nonlocal now_ms, count
            count += 1
            is_slow = index == 0 and TIMES["slow"][0] <= count < TIMES["slow"][1]
            now_ms += TIMES["costs_ms"][index] * (TIMES["factor"] if is_slow else 1)
            log.append(index)

        return run

    def time_block(run, calls: int) -> float:
        start = now_ms
        for _ in range(calls):
            run()
        return now_ms - start

    calls = {str(i): call(i) for i in range(2)}
    protocol = types.SimpleNamespace(**PROTOCOL)
    found = [
        [list(figures.values()), repeats]
        for figures, repeats in rounds(calls, protocol, time_block, lambda: now_ms / 1e3)
    ]
    assert page["log"] == log
    assert any(repeats for _, repeats in found)
    assert [r for _, r in page["found"]] == [r for _, r in found]
    for (theirs, _), (ours, _) in zip(page["found"], found, strict=True):
        assert theirs == pytest.approx(ours, rel=1e-9)


@pytest.fixture(scope="module")
def page():
    """onnxruntime-web with one thread."""
    device = Device(
        name="web", transport="browser", package=str(web_package()), runtime="onnxruntime-web"
    )
    runtime = RemoteRuntime(device, "onnxruntime-web", 1)
    yield runtime
    runtime.connection.close()


def test_a_page_measures_and_computes(page) -> None:
    graph = reference_graph()
    page.require()
    protocol = Protocol(warmup_s=0.01, min_rounds=5, max_rounds=5, max_repeats=0)
    calls = {name: page.prepare_onnx(graph.model, graph.feeds) for name in ("a", "b")}
    found = page.measure(calls, protocol)
    assert [len(result.rounds_ms) for result in found.values()] == [5, 5]
    assert 0 < found["a"].summary.value_ms < 1000
    long = Protocol(warmup_s=0.01, min_rounds=2, max_rounds=10**6)
    stopped = page.measure({"a": calls["a"]}, long, stop=lambda summaries: True)
    assert len(stopped["a"].rounds_ms) == 2
    there = page.infer(graph.model)(graph.feeds)["y"]
    here = OnnxRuntimeCpu(1).infer(graph.model)(graph.feeds)["y"]
    np.testing.assert_allclose(there, here, rtol=1e-4, atol=1e-4)
    assert page.profile(dtype="float32", batch=1).versions.keys() == {"onnxruntime-web", "browser"}
    with pytest.raises(InputError, match="cannot run the model"):
        page.measure({"a": page.prepare_onnx(b"no model", {"x": np.zeros(1)})}, protocol)


def test_what_is_missing_for_a_page_is_named(monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(RuntimeMissingError, match="npm install onnxruntime-web"):
        browser.find_package("web")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeMissingError, match="Chromium is not installed"):
        browser.find_browser("web")


@pytest.mark.parametrize(
    "text, runtime",
    [
        ('[d]\nhost = "h"\n', "onnxruntime-web"),
        ('[d]\ntransport = "browser"\n', "onnxruntime-cpu"),
    ],
)
def test_a_runtime_that_does_not_run_there_is_refused(monkeypatch, tmp_path, text, runtime) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "devices.toml").write_text(text)
    with pytest.raises(InputError, match="does not run there"):
        runtime_on("d", runtime, 1)
