"""`hwnas info` of an architecture and `hwnas spaces`."""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ElementTree

import pytest
from helpers.command_line import refused
from helpers.tiny import tiny_space

from hwnas.latency_tables.runtimes import RUNTIMES
from hwnas.spaces import SPACES


@pytest.fixture(params=sorted(SPACES))
def file(request, tmp_path, rng):
    """An architecture.json of each space, and the operators that it took."""
    space = tiny_space(request.param)
    architecture = space.sample(rng)
    path = tmp_path / "architecture.json"
    stated = architecture.to_json() | {"space_options": space.options.model_dump()}
    path.write_text(json.dumps(stated))
    # Of a recurrent cell's node the drawing has the state as a line.
    # Of a block's half it has the input as one.
    chosen = dict(zip(space.choices, architecture, strict=True))
    idle = {space.choices[row] for row in space.idle(space.chosen(architecture))}
    taken = [
        option.partition("~")[0]
        for choice, (name, option) in chosen.items()
        if not name.endswith("/input") and not (choice in idle and name.startswith("vertex"))
    ]
    return path, [name for name in taken if name not in ("none", "skip_connect")]


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
    texts = " ".join(e.text or "" for e in root.iter("{http://www.w3.org/2000/svg}text")).split()
    assert all(texts.count(operator) == operators.count(operator) for operator in operators)
    code, out, _ = cli("info", str(path), "--json")
    document = json.loads(out)
    assert code == 0
    assert len(out.splitlines()) == 1
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
    words = " ".join(out.split())
    for name, space in document["spaces"].items():
        assert f"\n{name}\n" in f"\n{out}"
        assert space["paper"] in words
        size = space["size"]
        assert (f"10^{math.log10(size):.1f}" if size >= 10**9 else f"{size:,}") in out
        assert sum(group["choices"] for group in space["choice_groups"]) == space["choices"]
        assert space["heads"] == list(SPACES[space["space"]].heads)
    assert "6 x none, skip_connect, nor_conv_1x1, nor_conv_3x3, avg_pool_3x3" in words
    assert "reads images or tokens; ends with the head classifier, dense" in words


@pytest.fixture
def space_file(tmp_path):
    path = tmp_path / "space.toml"
    path.write_text('name = "macro"\n[[stages]]\nwidth = [4, 8]\nlayers = [1, 2]\n')
    return path


def test_a_space_in_a_file_is_validated_and_described(cli, space_file) -> None:
    code, out, _ = cli("space", "validate", str(space_file))
    assert code == 0
    assert "2 choices, 6 architectures" in out
    code, out, _ = cli("space", "info", str(space_file), "--json")
    document = json.loads(out)
    assert code == 0
    assert document["size"] == 6
    assert document["space_options"]["stages"][0]["width"] == [4, 8]
    assert document["choice_options"] == {
        "stage1/layer1": ["conv_3x3_w4_relu", "conv_3x3_relu"],
        "stage1/layer2": ["conv_3x3_w4_relu", "conv_3x3_relu", "skip_connect"],
    }
    code, out, _ = cli("space", "info", str(space_file))
    assert code == 0
    assert "6 architectures" in out
    assert "stage1/layer2: conv_3x3_w4_relu" in " ".join(out.split())


def test_a_sampled_architecture_is_an_architecture_file(cli, space_file) -> None:
    code, out, _ = cli("space", "sample", str(space_file), "-n", "3", "--seed", "1")
    lines = out.splitlines()
    assert code == 0
    assert len(lines) == 3
    assert cli("space", "sample", str(space_file), "-n", "3", "--seed", "1")[1] == out
    drawn = json.loads(cli("space", "sample", str(space_file), "-n", "3", "--json")[1])
    assert len(drawn["architectures"]) == 3
    path = space_file.with_name("architecture.json")
    path.write_text(lines[0])
    code, out, _ = cli("info", str(path), "--json")
    assert code == 0
    assert json.loads(out)["params"] == json.loads(lines[0])["params"]
    assert "width_multiplier 1.0" in " ".join(cli("info", str(path))[1].split())


@pytest.mark.parametrize("verb", ["validate", "info", "sample"])
def test_a_space_that_is_none_is_refused(cli, space_file, verb) -> None:
    refused(cli("space", verb, "no_such.toml"), "no_such.toml", "cannot be read")
    for content, words in (
        ("[[stages]]\nwidth = 4\n", ["space.toml: name", "not named"]),
        ('name = "no_such"\n', ["space.toml", "unknown search space", "macro"]),
        ('name = "macro"\n', ["space.toml: space.stages", "missing key"]),
        ('name = "macro"\n[[stages]]\nwidht = 4\n', ["space.stages.0.widht", "unknown key"]),
    ):
        space_file.write_text(content)
        refused(cli("space", verb, str(space_file)), *words)
    refused(cli("space", "sample", str(space_file), "-n", "0"), "-n")
    code, out, _ = cli("space", verb, "--help")
    assert code == 0
    assert f"Example: hwnas space {verb}" in " ".join(out.split())
