"""The verbs that make tables: files in, files out, one line for what is wrong."""

from __future__ import annotations

import csv
import json
import subprocess
import sys

import numpy as np
import pytest
from helpers.command_line import refused
from helpers.tiny import table_of

from hwnas.budget.cost import CostModel
from hwnas.config import load_config
from hwnas.latency_tables.shipped import load_shipped, shipped_names
from hwnas.latency_tables.table import LatencyTable
from hwnas.pipeline.profile import profiled_space
from hwnas.spaces import build_space

NASBENCH201 = build_space("nasbench201", {})
TINY = [
    "--set", "space={name='nasbench201', cells=1, channels=4}",
    "--set", "data.train_limit=100",
    "--set", "data.test_limit=20",
]  # fmt: skip


def column(path, name: str) -> list[str]:
    with path.open() as file:
        return [row[name] for row in csv.DictReader(file)]


def ok(result: tuple[int, str, str]) -> dict:
    code, out, err = result
    assert code == 0, err
    return json.loads(out)


def write(path, cells: list[str], latency_ms) -> None:
    lines = [f"{cell},{ms}" for cell, ms in zip(cells, latency_ms, strict=True)]
    path.write_text("arch,latency_ms\n" + "\n".join(lines))


def test_design_fit_predict_audit(cli, tmp_path) -> None:
    """A device that is 1.5 times a published one is learned from ten networks."""
    designed, table = tmp_path / "design.csv", tmp_path / "t.json"
    ok(
        cli(
            "table",
            "design",
            "--space",
            "nasbench201",
            "-n",
            "10",
            "--out",
            str(designed),
            "--json",
        )
    )
    cells = column(designed, "arch")
    truth = CostModel(NASBENCH201, load_shipped("nasbench201-titanx_32"))

    def measured(texts: list[str]) -> np.ndarray:
        return 1.5 * truth.predict([NASBENCH201.from_genotype(text) for text in texts])[0]

    write(tmp_path / "m.csv", cells, measured(cells))
    line = ["table", "fit", "--space", "nasbench201", "--measurements", str(tmp_path / "m.csv")]
    line += ["--device-name", "mine", "--out", str(table), "--json"]
    facts = ok(cli(*line))
    assert facts["device"] == "mine"
    assert facts["calibration"]["edges"] == "all"
    rng = np.random.default_rng(1)
    held_out = [NASBENCH201.to_genotype(NASBENCH201.sample(rng)) for _ in range(40)]
    write(tmp_path / "held_out.csv", held_out, measured(held_out))
    predicted = tmp_path / "p.csv"
    archs = ["--archs", str(tmp_path / "held_out.csv"), "--out", str(predicted), "--json"]
    ok(cli("predict", "--table", str(table), *archs))
    assert column(predicted, "arch") == held_out
    found = np.array(column(predicted, "latency_ms"), dtype=float)
    np.testing.assert_allclose(found, measured(held_out), rtol=0.05)
    assert (np.array(column(predicted, "std_ms"), dtype=float) > 0).all()
    held = ["--measurements", str(tmp_path / "held_out.csv")]
    audit = ok(cli("table", "audit", str(table), *held, "--json"))["audit"]
    assert audit["spearman"] > 0.99
    assert audit["within_10_percent"] == 1.0
    assert LatencyTable.load(table).audit is not None
    assert ok(cli("table", "info", str(table), "--json"))["tables"][str(table)]["audit"] == audit
    code, out, _ = cli("table", "design", "--space", "nasbench201", "-n", "12", "--table",
                       str(table), "--budget-ms", "12", "--out", str(designed))  # fmt: skip
    assert code == 0
    assert "12 networks" in out


@pytest.mark.parametrize("prior", ["none", "nasbench201-1080ti_32"])
def test_fit_takes_any_prior(prior: str, cli, tmp_path) -> None:
    rng = np.random.default_rng(0)
    cells = [NASBENCH201.sample(rng) for _ in range(12)]
    latency_ms = CostModel(NASBENCH201, load_shipped("nasbench201-titanx_32")).predict(cells)[0]
    write(tmp_path / "m.csv", [NASBENCH201.to_genotype(c) for c in cells], latency_ms)
    line = ["table", "fit", "--space", "nasbench201", "--measurements", str(tmp_path / "m.csv")]
    line += ["--prior", prior, "--device-name", "d", "--out", str(tmp_path / "t.json"), "--json"]
    assert ok(cli(*line))["calibration"]["networks"] == 12


def test_microseconds_are_refused(cli, tmp_path) -> None:
    rng = np.random.default_rng(0)
    cells = [NASBENCH201.to_genotype(NASBENCH201.sample(rng)) for _ in range(5)]
    write(tmp_path / "m.csv", cells, [9000.0] * 5)
    line = ["table", "fit", "--space", "nasbench201", "--measurements", str(tmp_path / "m.csv")]
    result = cli(*line, "--device-name", "d", "--out", str(tmp_path / "t.json"))
    refused(result, "do not seem to be in milliseconds", "9000 ms", "9 ms")
    assert not (tmp_path / "t.json").exists()


def test_shipped_names_stand_for_files(cli) -> None:
    names = ok(cli("table", "list", "--json"))["tables"]
    assert names == shipped_names()
    facts = ok(cli("table", "info", "nasbench201-pixel3", "--json"))["tables"]["nasbench201-pixel3"]
    assert facts["calibration"]["edges"] == "read"
    assert facts["source"]["licence"] == "MIT"
    refused(cli("table", "info", "nasbench201-pixel33"), "no such file")
    refused(cli("table", "design", "--budget-ms", "3", "--out", "x.csv"), "needs a table")


def test_help_file_is_converted_as_shipped(cli, tmp_path, real_data) -> None:
    out = tmp_path / "t.json"
    file = str(real_data / "help_nb201_latency_ms.npz")
    line = ["table", "convert", file, "--from", "help", "--out", str(out), "--json"]
    ok(cli(*line, "--device", "gold_6240"))
    found, shipped = LatencyTable.load(out), load_shipped("nasbench201-gold_6240")
    assert found.device == shipped.device
    assert found.source == shipped.source
    # The last digits depend on the number of threads of the linear algebra.
    for table in (found, shipped):
        assert table.calibration is not None
        assert table.calibration.networks == 15625
    costs = [CostModel(NASBENCH201, table).coefficients.mean for table in (found, shipped)]
    np.testing.assert_allclose(*costs, rtol=1e-6, atol=1e-6)
    refused(cli(*line, "--device", "gold"), "no such device", "gold_6240")


@pytest.mark.slow
def test_a_bundle_is_measured_without_torch_and_imported(cli, tmp_path) -> None:
    bundle, table = tmp_path / "bundle", tmp_path / "t.json"
    line = ["profile", *TINY, "--bundle", str(bundle), "-n", "3", "--json"]
    assert ok(cli(*line))["models"] > 10
    refused(cli(*line), "not empty")
    script = bundle / "measure.py"
    # Torch, onnx and this package are hidden: the device has none of them.
    hide = "import sys, runpy; sys.modules.update(dict.fromkeys(['torch', 'onnx', 'hwnas']));"
    arguments = ["measure.py", "--seconds", "0.02", "--out", str(tmp_path / "r.json")]
    code = f"{hide} sys.argv = {arguments}"
    code += f"; runpy.run_path({str(script)!r}, run_name='__main__')"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, capture_output=True)
    facts = ok(cli("table", "import", str(tmp_path / "r.json"), "--out", str(table), "--json"))
    assert facts["calibration"]["networks"] == 3
    assert facts["runtime"] == "onnxruntime-cpu"
    space = profiled_space(load_config(None, TINY[1::2]))
    loaded = LatencyTable.load(table)
    assert not loaded.missing(space.all_operators())
    assert CostModel(space, loaded).fixed_ms > 0
    # A measurement that was stopped is refused, and goes on where it stopped.
    results = json.loads((tmp_path / "r.json").read_text())
    last = str(len(results["rounds_ms"]) - 1)
    kept = dict(results["rounds_ms"])
    del results["rounds_ms"][last]
    (tmp_path / "r.json").write_text(json.dumps(results))
    refused(cli("table", "import", str(tmp_path / "r.json"), "--out", str(table)), "not finished")
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, capture_output=True)
    again = json.loads((tmp_path / "r.json").read_text())["rounds_ms"]
    assert {key: again[key] for key in kept if key != last} == {
        key: rounds for key, rounds in kept.items() if key != last
    }
    # One model of the bundle, judged by what the device measured.
    model = next((bundle / "models").glob("networks-*.onnx"))
    one = [sys.executable, str(script), "--seconds", "0.02", "--model", str(model)]
    subprocess.run([*one, "--out", str(tmp_path / "one.json")], check=True, capture_output=True)
    check = ["check", str(model), "--measured", str(tmp_path / "one.json"), "--json"]
    for budget_ms, expected in (("1000", 0), ("1e-6", 1)):
        code, out, err = cli(*check, "--budget-ms", budget_ms)
        assert code == expected, err
        assert json.loads(out)["measured"]["rounds"] >= 50
    other = next(p for p in (bundle / "models").glob("networks-*.onnx") if p != model)
    result = cli("check", str(other), "--measured", str(tmp_path / "one.json"), "--budget-ms", "1")
    refused(result, "measured another model")


def test_malformed_results_are_refused(cli, tmp_path) -> None:
    path = tmp_path / "r.json"
    for text, words in (("{", "JSON"), ("{}", "results"), ('{"schema": 2}', "results")):
        path.write_text(text)
        refused(cli("table", "import", str(path), "--out", str(tmp_path / "t.json")), words)


@pytest.mark.slow
def test_audit_measures_on_this_device(cli, tmp_path) -> None:
    space = profiled_space(load_config(None, TINY[1::2]))
    table = tmp_path / "t.json"
    table_of(space).save(table)
    line = ["table", "audit", str(table), *TINY, "-k", "3", "--seconds", "2", "--json"]
    audit = ok(cli(*line))["audit"]
    assert audit["networks"] == 3
    assert audit["repeatability"]["networks"] == 3
    foreign = load_shipped("nasbench201-pixel3")
    foreign.save(table)
    refused(cli("table", "audit", str(table), "-k", "3"), "external")
