"""`hwnas info` of an architecture and `hwnas spaces`."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree

import pytest
from test_cli import cli, refused
from tiny import tiny_space

from hwnas.latency_tables.runtimes import RUNTIMES
from hwnas.spaces import SPACES

__all__ = ["cli"]


@pytest.fixture(params=sorted(SPACES))
def file(request, tmp_path, rng):
    """An architecture.json of each space, and the operators that it took."""
    space = tiny_space(request.param)
    architecture = space.sample(rng)
    path = tmp_path / "architecture.json"
    stated = architecture.to_json() | {"space_options": space.options.model_dump()}
    path.write_text(json.dumps(stated))
    return path, [option for _, option in architecture if option not in ("none", "skip_connect")]


def test_an_architecture_is_drawn_and_described(cli, file) -> None:
    path, operators = file
    drawing = path.with_name("drawing.svg")
    code, out, _ = cli("info", str(path), "--svg", str(drawing))
    assert code == 0
    words = "".join(out.split())
    for operator in operators:
        # Once in the drawing, once in the table.
        assert words.count(operator) >= 2 * operators.count(operator)
    root = ElementTree.fromstring(drawing.read_text())
    texts = " ".join(e.text or "" for e in root.iter("{http://www.w3.org/2000/svg}text"))
    assert all(texts.count(operator) == operators.count(operator) for operator in operators)
    code, out, _ = cli("info", str(path), "--json")
    document = json.loads(out)
    assert code == 0 and len(out.splitlines()) == 1
    assert f"{document['params']:,} parameters" in cli("info", str(path))[1]


def test_what_cannot_be_described_is_refused(cli, tmp_path) -> None:
    drawing = str(tmp_path / "drawing.svg")
    path = tmp_path / "architecture.json"
    refused(cli("info", "--svg", drawing), "--svg")
    refused(cli("info", str(path), "--svg", drawing), "architecture.json", "no such file")
    for content in ("", "[]", "{}", '{"schema": 1, "space": "darts", "choices": {}}', "\udcff"):
        path.write_bytes(content.encode(errors="surrogateescape"))
        refused(cli("info", str(path), "--svg", drawing), "architecture.json")
    assert not (tmp_path / "drawing.svg").exists()


def test_spaces_are_listed_with_their_runtimes(cli) -> None:
    code, out, _ = cli("spaces", "--json")
    document = json.loads(out)
    assert code == 0
    assert {space["space"] for space in document["spaces"].values()} == set(SPACES)
    assert set(document["runtimes"]) == set(RUNTIMES)
    code, out, _ = cli("spaces")
    assert code == 0
    for name, space in document["spaces"].items():
        assert name in out and space["paper"] in out and f"{space['size']:,}" in out
