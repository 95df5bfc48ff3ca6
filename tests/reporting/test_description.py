"""Documents about spaces and architectures, against published networks and manual counts."""

from __future__ import annotations

import json

import pytest
from helpers.tiny import tiny_space

from hwnas.errors import InputError
from hwnas.reporting.description import (
    describe_architecture,
    describe_space,
    listed_spaces,
    load_architecture,
)
from hwnas.spaces import build_space

MOBILENETV2 = {"layout": "proxylessnas", "stage_channels": [24, 32, 64, 96, 160, 320]}


def test_mobilenetv2_is_53_layers_deep() -> None:
    """52 convolutions and the classifier: Sandler et al., CVPR 2018, table 2."""
    space = build_space("mbconv", MOBILENETV2)
    layers = "66--666-6666666-666-6"
    blocks = ["skip_connect" if e == "-" else f"mbconv_3x3_e{e}" for e in layers]
    document = describe_architecture(space, space.from_genotype(blocks))
    assert document["depth"] == 53


@pytest.mark.parametrize(
    "genotype,depth",
    [
        # Stem, three convolutions in each of 15 cells, two in each of 2 reductions, classifier.
        (
            "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|"
            "+|nor_conv_3x3~0|nor_conv_3x3~1|nor_conv_3x3~2|",
            1 + 3 * 15 + 2 * 2 + 1,
        ),
        # The pool is on the longest path of a cell but is not counted; node 1 is a dead end.
        (
            "|nor_conv_3x3~0|+|nor_conv_1x1~0|none~1|+|nor_conv_1x1~0|none~1|avg_pool_3x3~2|",
            1 + 15 + 2 * 2 + 1,
        ),
    ],
)
def test_depth_of_cell_networks(genotype: str, depth: int) -> None:
    space = build_space("nasbench201")
    assert describe_architecture(space, space.from_genotype(genotype))["depth"] == depth


def test_costs_of_choices_and_fixed_parts_add_up() -> None:
    space = tiny_space("nasbench201")
    genotype = "|nor_conv_3x3~0|+|none~0|none~1|+|nor_conv_1x1~0|none~1|skip_connect~2|"
    document = describe_architecture(space, space.from_genotype(genotype))
    by_choice = {row["choice"]: row for row in document["choices"]}
    # One cell in each of three stages of 4, 8 and 16 channels: weights and batch norms.
    channels = [(4, 9 * 7), (8, 5 * 4), (16, 3 * 2)]
    assert by_choice["0>1"] == {
        "choice": "0>1",
        "option": "nor_conv_3x3",
        "params": sum(9 * c * c + 2 * c for c, _ in channels),
        "macs": sum(9 * c * c * pixels for c, pixels in channels),
        "runs": False,
    }
    assert by_choice["0>3"]["params"] == sum(c * c + 2 * c for c, _ in channels)
    assert [row["choice"] for row in document["choices"] if row["runs"]] == ["0>3"]
    for figure in ("params", "macs"):
        whole = document["fixed"][figure] + sum(row[figure] for row in document["choices"])
        assert document[figure] == whole
    assert document["genotype"] == genotype
    assert json.loads(json.dumps(document)) == document


def test_every_variant_of_every_space_is_listed() -> None:
    listed = dict(listed_spaces())
    assert list(listed) == [
        "darts",
        "decoder",
        "elastic ofa",
        "elastic small",
        "macro example",
        "mbconv fbnet",
        "mbconv proxylessnas",
        "mbconv small",
        "nasbench101",
        "nasbench201",
        "nasnet nasnet-a",
        "nasnet amoebanet-a",
        "rnn",
        "sequence text",
        "sequence table",
        *(name for name in listed if name.startswith("vit")),
    ]
    facts = describe_space(listed["mbconv proxylessnas"])
    assert (facts["choices"], facts["options"]) == (21, 6 * 6 + 15 * 7)
    assert facts["size"] == 6**6 * 7**15


def test_sizes_of_an_architecture_come_from_its_file(tmp_path, rng) -> None:
    space = tiny_space("darts")
    architecture = space.sample(rng)
    path = tmp_path / "architecture.json"
    path.write_text(
        json.dumps(architecture.to_json() | {"space_options": space.options.model_dump()})
    )
    loaded, same = load_architecture(path)
    assert loaded.options == space.options
    assert same == architecture
    path.write_text(json.dumps(architecture.to_json()))
    assert load_architecture(path)[0].options == build_space("darts").options


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2},
        {"space": "no_such"},
        {"space": None},
        {"choices": {}},
        {"choices": {"normal/0>2": "no_such"}},
        {"choices": 3},
        {"space_options": []},
        {"space_options": {"cells": "many"}},
        {"space_options": {"no_such": 1}},
        {"space_options": {"nodes": 3}},
    ],
)
def test_error_of_a_malformed_file_names_the_file(tmp_path, rng, change) -> None:
    path = tmp_path / "architecture.json"
    path.write_text(json.dumps(tiny_space("darts").sample(rng).to_json() | change))
    with pytest.raises(InputError, match="architecture.json"):
        load_architecture(path)
