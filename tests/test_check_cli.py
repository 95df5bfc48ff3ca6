"""`hwnas check`: exit codes, verdicts as files, and the workflow that ships, run step by step."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from hostile_files import CASES
from small_models import labelled_data, residual_net, saved, with_other_shift

import hwnas.cli
from hwnas.runs import interruption

QUICK = ["--set", "check.measure_seconds=20"]


@pytest.fixture
def check(capsys, monkeypatch):
    """Run `hwnas check` in this process: (exit code, stdout, stderr)."""
    monkeypatch.setattr(interruption, "install", lambda: None)

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            hwnas.cli.main(["check", *map(str, arguments)])
        captured = capsys.readouterr()
        return int(stopped.value.code or 0), captured.out, captured.err

    return call


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
    assert document["serving"]["requests"] > 0 and document["serving"]["threads"] == 2
    assert "pass" in markdown.read_text().splitlines()[0]
    assert_is_junit(junit, document)

    broken = saved(with_other_shift(residual_net()), tmp_path / "broken.onnx")
    code, out, _ = check(broken, *options, "--set", "check.min_accuracy=0.99")
    assert code == 1 and "verdict: fail" in out and "samples a second" in out
    failed = {case.get("name") for case in ElementTree.parse(junit).findall(".//failure/..")}
    assert failed == {"parity", "sqnr", "agreement", "accuracy", "accuracy_drop"}
    assert markdown.read_text().count("**fail**") == 5


def assert_is_junit(path: Path, document: dict) -> None:
    """The structure that CI systems read: suites, suite, cases, and counts that are right."""
    root = ElementTree.parse(path).getroot()
    (suite,) = root
    cases = list(suite)
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
        assert case.get("classname") and len(case) <= 1


def test_a_missing_runtime_ends_with_3(check, tmp_path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    model = saved(residual_net(), tmp_path / "m.onnx")
    code, out, err = check(model, "--runtime", "onnxruntime-cuda")
    assert (code, out) == (3, "") and "no CUDA device" in err


def refused(result: tuple[int, str, str], *words: str) -> None:
    code, out, err = result
    lines = [line for line in err.splitlines() if line.startswith("hwnas: ")]
    assert (code, out, len(lines)) == (2, "", 1), err
    assert "Traceback" not in err
    for word in words:
        assert word in lines[0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--input", "x"], ["--input", "NAME:1x3x224x224"]),
        (["--set", "train.epochs=3"], ["no setting of a check"]),
        (["--serve-threads", "2"], ["--serve-threads", "--serve-seconds"]),
        (["--run", "folder", "--threads", "2"], ["--threads", "--run"]),
        (["--data", "missing.npz"], ["missing.npz", "no such file"]),
        (["--reference", "missing.onnx"], ["missing.onnx", "no such file"]),
    ],
)
def test_bad_options(check, tmp_path, monkeypatch, options, words) -> None:
    monkeypatch.chdir(tmp_path)
    saved(residual_net(), tmp_path / "m.onnx")
    refused(check("m.onnx", *options, "--junit", "check.xml"), *words)
    assert not (tmp_path / "check.xml").exists()


def test_a_model_that_no_runtime_here_runs(check, tmp_path) -> None:
    model = residual_net()
    model.graph.node[-1].domain = "somebody.else"
    model.opset_import.add(domain="somebody.else", version=1)
    result = check(saved(model, tmp_path / "m.onnx"))
    refused(result, "ONNX Runtime refuses the model", "somebody.else")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(CASES))
def test_hostile_files_end_with_2(name, tmp_path) -> None:
    """In a process of its own, which imports nothing heavy on the way."""
    write, words = CASES[name]
    code = (
        "import sys, hwnas.cli\n"
        "try: hwnas.cli.main(['check', sys.argv[1]])\n"
        "finally: assert not {'torch', 'onnx', 'onnxruntime', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, write(tmp_path)], capture_output=True, text=True
    )
    refused((done.returncode, done.stdout, done.stderr), *words)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("budget_ms", "expected"), [("1000", 0), ("0.000001", 1)], ids=["kept", "broken"]
)
def test_the_workflow_fails_a_pull_request(tmp_path, budget_ms, expected) -> None:
    workflow = yaml.safe_load((files("hwnas") / "examples" / "model-check.yml").read_text())
    saved(residual_net(), tmp_path / workflow["env"]["MODEL"])
    summary = tmp_path / "summary.md"
    environment = os.environ | workflow["env"] | {"GITHUB_STEP_SUMMARY": str(summary)}
    environment["BUDGET_MS"] = budget_ms
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    failed = 0
    (job,) = workflow["jobs"].values()
    for step in job["steps"]:
        if "run" in step and (not failed or step.get("if") == "always()"):
            done = subprocess.run(
                ["bash", "-eo", "pipefail", "-c", step["run"]], cwd=tmp_path, env=environment
            )
            failed = failed or done.returncode
    assert failed == expected
    verdict = "fail" if expected else "pass"
    assert summary.read_text().splitlines()[0] == f"## model.onnx: {verdict}"
    assert (tmp_path / "check.xml").exists()
    assert workflow[True] == "pull_request"
