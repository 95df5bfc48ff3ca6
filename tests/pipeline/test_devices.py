"""Settings of devices that are elsewhere: what devices.toml fills, and what excludes what."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from hwnas.config import DeviceConfig
from hwnas.errors import InputError
from hwnas.latency_tables.remote.choosing import runtime_on
from hwnas.pipeline import shrink
from hwnas.pipeline.compatibility import check_measurements
from hwnas.pipeline.configuration import load_config
from hwnas.pipeline.further_devices import further_config
from hwnas.pipeline.profile import member_ratios


@pytest.fixture
def inventory(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "devices.toml").write_text(
        '[nano]\nhost = "nano"\nruntime = "onnxruntime-cuda"\nthreads = 3\n[pi]\nhost = "pi"\n'
    )
    return tmp_path


def test_runtime_and_threads_of_a_device_are_used_where_they_are_not_stated(inventory) -> None:
    latency = load_config("default", ["latency.device=nano"]).latency
    assert (latency.runtime, latency.threads) == ("onnxruntime-cuda", 3)
    latency = load_config("default", ["latency.device=nano", "latency.threads=2"]).latency
    assert (latency.runtime, latency.threads) == ("onnxruntime-cuda", 2)
    latency = load_config("default", ["latency.device=pi"]).latency
    assert (latency.runtime, latency.threads) == ("onnxruntime-cpu", 1)


def test_what_stands_beside_the_device_in_a_file_is_kept(inventory) -> None:
    """A run's folder holds both, so a resumed run is the same."""
    config = load_config("default", ["latency.device=nano", "latency.threads=2"])
    (inventory / "config.toml").write_text(config.to_toml())
    assert load_config(inventory / "config.toml") == config


def test_a_device_that_has_no_name_is_refused(inventory) -> None:
    with pytest.raises(InputError, match="no such device, expected one of nano, pi, got nono"):
        load_config("default", ["latency.device=nono"])
    with pytest.raises(ValidationError, match="give its name or its table"):
        DeviceConfig(budget_ms=1.0)


def test_a_further_device_is_measured_by_its_own_runtime(inventory) -> None:
    config = load_config("default", ["devices=[{name='nano', budget_ms=2.0}]"])
    latency = further_config(config, config.devices[0]).latency
    assert (latency.device, latency.runtime, latency.threads) == ("nano", "onnxruntime-cuda", 3)
    assert latency.batch == config.latency.batch


@pytest.mark.parametrize(
    "settings, message",
    [
        (["latency.device_measurements=x.csv"], "either device or device_measurements, got both"),
        (["budget.memory_mb=10"], "memory is measured of sessions that run ONNX models here"),
    ],
)
def test_what_a_device_elsewhere_excludes_is_named(inventory, settings, message) -> None:
    config = load_config("default", ["latency.device=pi", *settings])
    with pytest.raises(InputError, match=message):
        check_measurements(config, runtime_on("pi", "onnxruntime-cpu", 1), "c.toml")


def test_a_network_is_shrunk_for_the_runtime_of_the_named_device(inventory) -> None:
    assert shrink._latency(None, None) == {"runtime": "onnxruntime-cpu"}
    stated = {"device": "nano", "threads": 3}
    assert shrink._latency(None, "nano") == stated | {"runtime": "onnxruntime-cuda"}
    assert shrink._latency("tensorrt-cuda", "nano") == stated | {"runtime": "tensorrt-cuda"}


def test_devices_of_a_pool_are_compared_by_the_median_over_networks() -> None:
    latency_ms = np.array([[1.0, 2.0, 9.0], [1.2, 2.4, 3.6]])
    found = member_ratios(["left", "right"], latency_ms)
    assert found == pytest.approx({"left": 1 / 1.1, "right": 1.2 / 1.1})
