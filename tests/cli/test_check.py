"""`hwnas check`: exit codes, verdicts as files, and the workflow that ships, run step by step."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from helpers.hostile_files import CASES
from helpers.small_models import labelled_data, model_of, residual_net, saved, with_other_shift
from onnx import helper

from hwnas.checking import performance
from hwnas.checking.gates import Gate
from hwnas.cli.terminal import print_check
from hwnas.deploy.export import set_metadata
from hwnas.errors import RuntimeMissingError
from hwnas.latency_tables.measuring import energy
from hwnas.latency_tables.runtimes.onnx import OnnxRuntimeCpu
from hwnas.reporting.verdict import to_junit, to_markdown

ROOT = Path(__file__).parents[2]
QUICK = ["--set", "check.measure_seconds=20"]


def test_a_good_model_and_its_broken_twin(check, tmp_path) -> None:
    good = saved(residual_net(), tmp_path / "good.onnx")
    data = labelled_data(good, tmp_path / "data.npz")
    junit, markdown = tmp_path / "check.xml", tmp_path / "check.md"
    options = ["--reference", good, "--data", data, "--junit", junit, "--markdown", markdown]
    serving = ["--serve-seconds", "1", "--serve-threads", "2", "--budget-ms", "1000"]
    options += [*QUICK, "--set", "budget.memory_mb=1000"]
    code, out, err = check(good, *options, *serving, "--json")
    assert code == 0, err
    document = json.loads(out)
    assert document["verdict"] == "pass"
    assert document["accuracy"] == {"reference": 1.0, "onnx": 1.0, "n": 200}
    assert document["percentiles"]["p50_ms"] > 0
    assert [row["batch"] for row in document["throughput"]] == [1, 8, 32]
    assert document["serving"]["requests"] > 0
    assert document["serving"]["threads"] == 2
    assert "pass" in markdown.read_text().splitlines()[0]
    assert_is_junit(junit, document)

    broken = saved(with_other_shift(residual_net()), tmp_path / "broken.onnx")
    code, out, _ = check(broken, *options, "--set", "check.min_accuracy=0.99")
    assert code == 1
    assert "verdict: fail" in out
    assert "samples a second" in out
    failed = {case.get("name") for case in ElementTree.parse(junit).findall(".//failure/..")}
    assert failed == {"parity", "sqnr", "agreement", "accuracy", "accuracy_drop"}
    assert markdown.read_text().count("**fail**") == 5


def assert_is_junit(path: Path, document: dict) -> None:
    """The structure that CI systems read: suites, suite, cases, and counts that are right."""
    root = ElementTree.parse(path).getroot()
    (suite,) = root
    # JUnit allows the properties of a suite before its cases.
    cases = [element for element in suite if element.tag != "properties"]
    assert {element.tag for element in suite[1:]} <= {"testcase"}
    assert (root.tag, suite.tag) == ("testsuites", "testsuite")
    assert {case.tag for case in cases} == {"testcase"}
    assert [case.get("name") for case in cases] == [gate["name"] for gate in document["gates"]]
    kinds = {"failures": ("failure", "fail"), "errors": ("error", "inconclusive")}
    kinds["skipped"] = ("skipped", "skipped")
    for element in (root, suite):
        assert int(element.get("tests", -1)) == len(cases)
        for counted, (tag, status) in kinds.items():
            expected = sum(gate["status"] == status for gate in document["gates"])
            assert int(element.get(counted, -1)) == expected
            assert len(root.findall(f".//{tag}")) == expected
    for case in cases:
        assert case.get("classname")
        assert len(case) <= 1


@pytest.mark.slow
def test_a_model_at_chance_level_is_told_everywhere(check, tmp_path) -> None:
    """Exit code, terminal, JUnit and Markdown; and only a warning where a limit was set."""
    model, data = tmp_path / "m.onnx", tmp_path / "data.npz"
    saved(residual_net(), model)
    with np.load(labelled_data(model, data)) as arrays:
        shuffled = np.random.default_rng(0).permutation(arrays["labels"])
        np.savez(data, x=arrays["x"], labels=shuffled)
    junit, markdown = tmp_path / "check.xml", tmp_path / "check.md"
    options = [model, "--data", data, "--junit", junit, "--markdown", markdown, *QUICK]
    told = "the share of the largest class"
    code, out, err = check(*options)
    assert code == 3, err
    assert "verdict: inconclusive" in out
    (warning,) = (line for line in out.splitlines() if line.startswith("warning: "))
    assert told in warning
    (error,) = ElementTree.parse(junit).findall(".//error")
    assert told in error.get("message", "")
    assert markdown.read_text().splitlines()[2].startswith("> **Warning:** accuracy")
    assert markdown.read_text().count(told) == 1

    code, out, err = check(*options, "--set", "check.min_accuracy=0.01")
    assert code == 0, err
    assert told in out
    assert not ElementTree.parse(junit).findall(".//error")
    (output,) = ElementTree.parse(junit).findall(".//system-out")
    assert told in (output.text or "")
    assert told in markdown.read_text()


def test_limits_say_their_direction_and_numbers_are_readable(capsys) -> None:
    gates = [
        Gate("budget", "fail", 0.2, 0.163, bound="max"),
        Gate("sqnr", "pass", 121.0, 80.0, bound="min"),
        Gate("accuracy", "reported", 12000.0, None),
    ]
    measured = {"value_ms": 0.2, "ci_low_ms": 0.2, "ci_high_ms": 0.2, "p90_ms": 0.2}
    document = {
        "verdict": "fail",
        "gates": [gate.to_json() for gate in gates],
        "measured": measured | {"statistic": "p10", "runtime": "cpu"},
        "model": {"name": "m.onnx"},
        "batches": {"failures": []},
        "throughput": [{"batch": 1, "per_second": 101_900.0}],
    } | dict.fromkeys(
        ["budget_ms", "predicted_ms", "percentiles", "serving", "energy", "memory_mb"]
    )
    document |= {"contradiction": None, "notes": []}
    print_check(document, None)
    printed = capsys.readouterr().out
    rows = [" ".join(line.replace("│", " ").split()) for line in printed.splitlines()]
    assert "budget fail 0.2 max 0.163" in rows
    assert "sqnr pass 121 min 80" in rows
    assert "accuracy reported 12,000 -" in rows
    assert "101,900 at 1" in printed
    assert "| budget | **fail** | 0.2 | max 0.163 |" in to_markdown(document)
    assert "| accuracy | reported | 12,000 | - |" in to_markdown(document)
    messages = [
        e.get("message")
        for e in ElementTree.fromstring(to_junit(document).encode()).iter("failure")
    ]
    assert messages == ["value 0.2, max 0.163"]


def test_a_gate_without_numbers_says_what_is_wrong() -> None:
    detail = "output 'y': declared (2,), computed (3,)"
    gates = [Gate("shapes", "fail", None, None, detail), Gate("b", "fail", 1.0, 2.0)]
    document = {"verdict": "fail", "gates": [gate.to_json() for gate in gates], "memory_mb": None}
    document["model"] = {"name": "a[1]\x1b_.onnx"}
    root = ElementTree.fromstring(to_junit(document).encode())
    assert [failure.get("message") for failure in root.iter("failure")] == [
        detail,
        "value 1, limit 2",
    ]
    assert root[0].get("name") == "hwnas check a[1]?_.onnx"
    assert f"- shapes: {detail}" in to_markdown(document)
    assert "a\\[1\\]?\\_.onnx" in to_markdown(document)


def test_speed_of_the_machine_is_in_both_summaries() -> None:
    speed = {"reference": "r", "reference_ms": 0.12, "recorded_ms": 0.1, "drift": 1.2}
    document = {"verdict": "pass", "gates": [], "memory_mb": None, "measured": {"speed": speed}}
    document["model"] = {"name": "model.onnx"}
    found = ElementTree.fromstring(to_junit(document).encode()).iter("property")
    properties = {one.get("name"): one.get("value") for one in found}
    assert properties["machine_speed.drift"] == "1.2"
    assert properties["machine_speed.recorded_ms"] == "0.1"
    assert "20% slower than recorded" in to_markdown(document)


def test_texts_of_files_are_neither_markup_nor_control_characters(capsys) -> None:
    measured = {"value_ms": 1.0, "ci_low_ms": 1.0, "ci_high_ms": 1.0, "p90_ms": 1.0}
    measured |= {"statistic": "p10", "runtime": "cpu, phone [/x]"}
    document = {"verdict": "pass", "measured": measured, "budget_ms": None, "predicted_ms": None}
    document |= {
        "percentiles": None,
        "serving": None,
        "energy": None,
        "throughput": [],
        "notes": [],
    }
    document |= {"contradiction": "output \x1b]0;t\x07", "batches": {"failures": ["[/y]"]}}
    document["gates"] = [Gate("budget: [/z]", "pass", 1.0, 2.0).to_json()]
    print_check(document, None)
    out = capsys.readouterr().out
    assert all(text in out for text in ("[/x]", "[/y]", "[/z]", "output ?]0;t?"))
    assert "\x07" not in out


def test_the_name_of_a_file_does_not_decide_how_it_is_read(tmp_path) -> None:
    session = OnnxRuntimeCpu(1).session(saved(residual_net(), tmp_path / "m.ort"))
    assert [value.name for value in session.get_inputs()] == ["x"]


@pytest.mark.parametrize(
    "properties, words",
    [
        ({"threads": "1e300"}, ["hwnas.threads", "1 to 1024", "1e300"]),
        ({"threads": "1.5"}, ["hwnas.threads", "1.5"]),
        ({"batch": "64"}, ["hwnas.batch", "expected 2", "got 64"]),
        ({"budget_ms": "\x1b[31mred"}, ["hwnas.budget_ms", "?[31mred"]),
        ({"runtime": "\x1b[31mred"}, ["unknown runtime", "?[31mred"]),
    ],
)
def test_properties_that_are_refused(check, tmp_path, properties, words) -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    model = model_of([node], {"x": (2, 4)}, {"y": (2, 4)})
    helper.set_model_props(model, {f"hwnas.{name}": text for name, text in properties.items()})
    refused(check(saved(model, tmp_path / "m.onnx")), *words)


def test_results_without_the_times_of_their_model(check, tmp_path) -> None:
    path = saved(residual_net(), tmp_path / "m.onnx")
    model = {"name": "m", "file": "m.onnx", "inputs": {"x": [1, 3, 4, 4]}}
    model["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    results = {"schema": 1, "device": "phone", "provider": "CPUExecutionProvider", "threads": 1}
    results |= {"versions": {}, "manifest": None, "model": model, "rounds_ms": {"0": {"z": [1.0]}}}
    (tmp_path / "results.json").write_text(json.dumps(results))
    refused(check(path, "--measured", tmp_path / "results.json"), "no times of the model")


@pytest.mark.parametrize("count, budget_ms, expected", [(50, 2, 0), (50, 1, 1), (20, 2, 3)])
def test_the_times_that_trtexec_exports(check, tmp_path, count, budget_ms, expected) -> None:
    path, times = saved(residual_net(), tmp_path / "m.onnx"), tmp_path / "times.json"
    row = {"startEnqMs": 0.1, "endEnqMs": 0.2, "computeMs": 1.0}
    rows = [row | {"latencyMs": 1.5 + 0.001 * i} for i in range(count)]
    times.write_text(json.dumps(rows))
    code, out, err = check(path, "--measured", times, "--budget-ms", budget_ms, "--json")
    assert code == expected, err
    measured = json.loads(out)["measured"]
    assert (measured["runtime"], measured["rounds"]) == ("trtexec", count)
    assert measured["value_ms"] == pytest.approx(1.5 + 0.0005 * (count - 1))


def test_a_missing_runtime_ends_with_3(check, tmp_path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    model = saved(residual_net(), tmp_path / "m.onnx")
    code, out, err = check(model, "--runtime", "onnxruntime-cuda")
    assert (code, out) == (3, "")
    assert "no CUDA device" in err


def refused(result: tuple[int, str, str], *words: str) -> None:
    code, out, err = result
    lines = [line for line in err.splitlines() if line.startswith("hwnas: ")]
    assert (code, out, len(lines)) == (2, "", 1), err
    assert "Traceback" not in err
    for word in words:
        assert word in lines[0]


@pytest.mark.slow
def test_a_budget_of_energy(check, tmp_path, monkeypatch) -> None:
    model = saved(residual_net(), tmp_path / "m.onnx")
    monkeypatch.setattr(energy, "POWERCAP", tmp_path / "nowhere")
    options = [model, *QUICK, "--set", "budget.energy_mj=5"]
    code, out, _ = check(*options)
    assert code == 3
    assert "energy" in out
    counter = energy.Counter("powercap", lambda: (next(read_mj),), (1e9,))
    read_mj = iter([10.0, 10.0 + 4.0 * 1000])
    monkeypatch.setattr(performance, "energy_counter", lambda runtime: counter)
    code, out, err = check(*options, "--json")
    document = json.loads(out)
    assert code == 0, err
    taken = document["energy"]
    assert taken["mj"] == pytest.approx(4000 / taken["inferences"])
    assert taken["power_w"] > 0
    statuses = {gate["name"]: gate["status"] for gate in document["gates"]}
    assert statuses["energy"] == "pass"


@pytest.mark.parametrize(
    "options, words",
    [
        (["--input", "x"], ["--input", "NAME:1x3x224x224"]),
        (["--set", "train.epochs=3"], ["this setting does not apply to a check"]),
        (["--serve-threads", "2"], ["--serve-threads", "--serve-seconds"]),
        (["--run", "folder", "--threads", "2"], ["--threads", "--run"]),
        (["--data", "missing.npz"], ["missing.npz", "no such file"]),
        (["--reference", "missing.onnx"], ["missing.onnx", "no such file"]),
        (["--measured", "r.json", "--serve-seconds", "1"], ["--serve-seconds", "--measured"]),
        (
            ["--measured", "r.json", "--set", "budget.memory_mb=9"],
            ["budget.memory_mb", "--measured"],
        ),
        (["--measured", "r.json", "--set", "budget.energy_mj=9"], ["energy_mj", "--measured"]),
        (["--markdown", "nowhere/check.md"], ["--markdown", "nowhere", "cannot be written"]),
    ],
)
def test_bad_options(check, tmp_path, monkeypatch, options, words) -> None:
    monkeypatch.chdir(tmp_path)
    saved(residual_net(), tmp_path / "m.onnx")
    (tmp_path / "check.xml").write_text("of an older check")
    refused(check("m.onnx", *options, "--junit", "check.xml"), *words)
    (error,) = ElementTree.parse(tmp_path / "check.xml").findall(".//error")
    assert error.get("type") == "refused"
    assert all(w in error.get("message", "") for w in words)


def test_a_model_that_no_runtime_here_runs(check, tmp_path) -> None:
    model = residual_net()
    model.graph.node[-1].domain = "somebody.else"
    model.opset_import.add(domain="somebody.else", version=1)
    result = check(saved(model, tmp_path / "m.onnx"))
    refused(result, "ONNX Runtime cannot load the model", "somebody.else")


@pytest.mark.parametrize("option", ["--junit", "--markdown"])
def test_a_verdict_never_takes_the_place_of_what_is_read(check, tmp_path, option) -> None:
    model, data = tmp_path / "model.onnx", tmp_path / "data.npz"
    for path in (model, data):
        path.write_text("precious")
        refused(check(model, "--data", data, option, path), "would overwrite", option)
        assert path.read_text() == "precious"


def test_a_refused_file_is_told_where_a_verdict_stood(check, tmp_path) -> None:
    junit, markdown = tmp_path / "check.xml", tmp_path / "check.md"
    for path in (junit, markdown):
        path.write_text("pass")
    model = tmp_path / "bad[1].onnx"
    model.write_text("no model")
    refused(check(model, "--junit", junit, "--markdown", markdown), "not an ONNX model")
    root = ElementTree.parse(junit).getroot()
    (case,) = root.iter("testcase")
    (error,) = case
    assert (root.get("tests"), root.get("errors"), root.get("failures")) == ("1", "1", "0")
    assert error.tag == "error"
    assert "not an ONNX model" in error.get("message", "")
    title, _, line = markdown.read_text().splitlines()
    assert title == "## bad\\[1\\].onnx: refused"
    assert "not an ONNX model" in line


def test_what_could_not_be_measured_is_no_refusal(check, tmp_path, monkeypatch) -> None:
    def missing(runtime: OnnxRuntimeCpu) -> None:
        raise RuntimeMissingError("not here", where=runtime.name)

    monkeypatch.setattr(OnnxRuntimeCpu, "require", missing)
    markdown = tmp_path / "check.md"
    code, _, _ = check(saved(residual_net(), tmp_path / "m.onnx"), "--markdown", markdown)
    assert code == 3
    assert markdown.read_text() == "## m.onnx: inconclusive\n\nonnxruntime-cpu: not here\n"


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(CASES))
def test_hostile_files_end_with_2(name, tmp_path) -> None:
    """In a process of its own, which imports nothing heavy on the way."""
    write, words = CASES[name]
    code = (
        "import sys, hwnas.cli.app\n"
        "try: hwnas.cli.app.main(['check', sys.argv[1]])\n"
        "finally: assert not {'torch', 'onnx', 'onnxruntime', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, write(tmp_path)], capture_output=True, text=True
    )
    refused((done.returncode, done.stdout, done.stderr), *words)


@pytest.mark.parametrize(
    "budget_ms, verdict",
    [
        pytest.param("1000", "pass", marks=pytest.mark.slow),
        pytest.param("0.000001", "fail", marks=pytest.mark.slow),
        ("1", "refused"),
    ],
)
def test_the_workflow_fails_a_pull_request(tmp_path, budget_ms, verdict) -> None:
    workflow = yaml.safe_load((ROOT / "examples" / "model-check.yml").read_text())
    model = residual_net()
    # The workflow says where it is measured, not the model.
    set_metadata(model, {"runtime": "torch-cpu", "threads": "1000"})
    path = saved(model, tmp_path / workflow["env"]["MODEL"])
    if verdict == "refused":
        path.write_bytes(path.read_bytes()[:-1])
    summary = tmp_path / "summary.md"
    environment = os.environ | workflow["env"] | {"GITHUB_STEP_SUMMARY": str(summary)}
    environment["BUDGET_MS"] = budget_ms
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    failed = 0
    (job,) = workflow["jobs"].values()
    for step in job["steps"]:
        if "run" in step and (not failed or step.get("if") == "always()"):
            done = subprocess.run(
                ["bash", "-eo", "pipefail", "-c", shortened(step["run"])],
                cwd=tmp_path,
                env=environment,
            )
            failed = failed or done.returncode
    assert failed == {"pass": 0, "fail": 1, "refused": 2}[verdict]
    assert summary.read_text().splitlines()[0] == f"## model.onnx: {verdict}"
    assert ElementTree.parse(tmp_path / "check.xml").getroot().tag == "testsuites"
    assert workflow[True] == "pull_request"


def shortened(step: str) -> str:
    """A step of the workflow that measures for a second where it measures at all."""
    return step.replace("--serve-seconds 5", "--serve-seconds 1 --set check.measure_seconds=1")
