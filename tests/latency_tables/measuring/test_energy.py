"""Energy counters: the files of powercap, counters that wrap around, devices without counters."""

from __future__ import annotations

import pytest

from hwnas.checking.gates import energy_gates
from hwnas.latency_tables.measuring import energy
from hwnas.latency_tables.measuring.energy import Counter, Energy, measure_energy, powercap_counter
from hwnas.latency_tables.runtimes import OnnxRuntimeCpu

RANGE_UJ = 262_143_328_850


@pytest.fixture
def powercap(tmp_path):
    """Two packages, the cores of one of them, and a zone of something else."""
    for zone, name, energy_uj in [
        ("intel-rapl:0", "package-0", 5_000_000),
        ("intel-rapl:0:0", "core", 4_000_000),
        ("intel-rapl:1", "package-1", RANGE_UJ - 1_000_000),
        ("intel-rapl:2", "psys", 9_000_000),
        ("dtpm", "dtpm", 7),
    ]:
        folder = tmp_path / zone
        folder.mkdir()
        (folder / "name").write_text(f"{name}\n")
        (folder / "energy_uj").write_text(f"{energy_uj}\n")
        (folder / "max_energy_range_uj").write_text(f"{RANGE_UJ}\n")
    return tmp_path


class Clock(OnnxRuntimeCpu):
    """Inferences of 4 ms on a device that uses 15 mJ for each."""

    def __init__(self, powercap):
        super().__init__(threads=1)
        self.powercap = powercap

    def time_block(self, call, calls):
        for zone, share in (("intel-rapl:0", 1 / 3), ("intel-rapl:1", 2 / 3)):
            path = self.powercap / zone / "energy_uj"
            path.write_text(str(round(int(path.read_text()) + 15e3 * calls * share) % RANGE_UJ))
        return 4.0 * calls


def test_packages_are_added_and_counters_wrap_around(powercap) -> None:
    counter = powercap_counter(powercap)
    assert counter is not None
    assert len(counter.read_mj()) == 2
    found = measure_energy(lambda: None, Clock(powercap), counter, latency_ms=4.0, seconds=2.0)
    assert found.mj == pytest.approx(15.0)
    assert found.inferences == 500
    assert found.power_w == pytest.approx(15.0 / 4.0)
    assert found.counter == "powercap"
    # The second package's counter has wrapped around.
    assert int((powercap / "intel-rapl:1" / "energy_uj").read_text()) < 10e6


def test_one_inference_is_counted_however_long_it_takes(powercap) -> None:
    counter = powercap_counter(powercap)
    assert counter is not None
    found = measure_energy(lambda: None, Clock(powercap), counter, latency_ms=1e5, seconds=2.0)
    assert found.inferences == 1


@pytest.mark.parametrize("broken", ["nothing", "no packages", "not a number", "unreadable"])
def test_no_counter_where_none_can_be_read(powercap, tmp_path, broken) -> None:
    if broken == "nothing":
        powercap = tmp_path / "missing"
    elif broken == "no packages":
        for zone in ("intel-rapl:0", "intel-rapl:1"):
            (powercap / zone / "name").write_text("dram\n")
    elif broken == "not a number":
        (powercap / "intel-rapl:1" / "energy_uj").write_text("\n")
    else:
        # Root can read every file, so the file is removed instead.
        (powercap / "intel-rapl:0" / "energy_uj").unlink()
    assert powercap_counter(powercap) is None


def test_a_counter_by_device_class(powercap, monkeypatch) -> None:
    monkeypatch.setattr(energy, "POWERCAP", powercap)
    counter = energy.energy_counter(OnnxRuntimeCpu(1))
    assert counter is not None
    assert counter.name == "powercap"


def test_each_part_wraps_around_at_its_own_range() -> None:
    counter = Counter("any", tuple, (100.0, 1000.0))
    assert counter.between_mj((90.0, 10.0), (5.0, 20.0)) == 25.0


def test_the_gate_compares_the_energy_with_the_budget() -> None:
    taken = Energy(mj=3.0, power_w=10.0, inferences=5, counter="nvml")
    assert energy_gates(taken, None) == []
    assert [gate.status for gate in energy_gates(taken, 3.0)] == ["pass"]
    assert [gate.status for gate in energy_gates(taken, 2.9)] == ["fail"]
    unknown = energy_gates(None, 3.0)[0]
    assert unknown.status == "inconclusive"
    assert "no energy counter" in str(unknown.detail)
