"""How `hwnas check` ends when nobody foresaw an error, and what a pass leaves open."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from helpers.small_models import residual_net, saved

import hwnas.checking.check
import hwnas.cli.app


@pytest.mark.parametrize("as_json", [False, True])
def test_an_unforeseen_error_has_its_own_exit_code_and_leaves_its_traceback(
    check, tmp_path, monkeypatch, as_json
) -> None:
    def fails(*arguments, **options):
        raise KeyError("an error\nof two lines")

    monkeypatch.setattr(hwnas.checking.check, "check_model", fails)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    model = saved(residual_net(), tmp_path / "model.onnx")
    junit, markdown = tmp_path / "check.xml", tmp_path / "check.md"
    options = ["--junit", junit, "--markdown", markdown, *["--json"] * as_json]
    code, out, err = check(model, *options)
    assert code == 4
    (line,) = err.splitlines()
    assert line.startswith(f"hwnas: {model}: the check ended with an unforeseen error")
    assert "KeyError" in line
    found = re.search(r"\S+hwnas-error-\S+\.txt", line)
    assert found is not None
    assert "Traceback" in Path(found[0]).read_text()
    (error,) = ElementTree.parse(junit).findall(".//error")
    assert error.get("type") == "error"
    assert "KeyError" in str(error.get("message"))
    assert markdown.read_text().startswith("## model.onnx: error")
    if as_json:
        document = json.loads(out)
        assert (document["verdict"], document["traceback"]) == ("error", found[0])
    else:
        assert out == ""


def test_a_pass_says_what_was_not_asked(check, tmp_path) -> None:
    model = saved(residual_net(), tmp_path / "model.onnx")
    markdown = tmp_path / "check.md"
    code, out, _ = check(model, "--set", "check.measure_seconds=0.5", "--markdown", markdown)
    assert code == 0
    assert "verdict: pass (latency not limited, accuracy not known)" in out
    assert "pass (latency not limited, accuracy not known)" in markdown.read_text()
