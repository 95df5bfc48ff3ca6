"""Layered networks described in TOML: what a description means, and what mistakes report."""

from __future__ import annotations

import json
import tomllib

import numpy as np
import pytest
import torch
from helpers.tiny import TINY_SIZES, cost_in_table, table_of, tiny_space
from hypothesis import given, settings
from hypothesis import strategies as st

from hwnas.architecture import Mixture
from hwnas.budget.cost import CostModel
from hwnas.config import load_config, read_space_file
from hwnas.deploy.export import export_network
from hwnas.errors import InputError
from hwnas.spaces import SearchSpace, build_space
from hwnas.spaces.layers import SKIP
from hwnas.spaces.macro import example_options


def space_of(text: str, **options):
    return build_space("macro", TINY_SIZES | tomllib.loads(text) | options)


def options_of(space) -> dict[str, tuple[str, ...]]:
    return {choice.name: choice.options for choice in space.choices}


def test_a_value_is_fixed_and_a_list_is_a_choice() -> None:
    space = space_of("""
        [[stages]]
        layers = [2, 3]
        kernel = [3, 5]
        channels = 8
        reduction = 2
        stride = [1, 2]
        pooling = ["max", "avg"]
        [[stages]]
        operator = "dense"
        width = [4, 8]
        activation = "relu6"
        """)
    assert options_of(space) == {
        "stage1/layer1": (
            *("conv_3x3_relu_max2", "conv_3x3_relu_avg2", "conv_3x3_relu"),
            *("conv_5x5_relu_max2", "conv_5x5_relu_avg2", "conv_5x5_relu"),
        ),
        "stage1/layer2": ("conv_3x3_relu", "conv_5x5_relu"),
        "stage1/layer3": ("conv_3x3_relu", "conv_5x5_relu", "skip_connect"),
        "stage2/layer1": ("dense_w4_relu6", "dense_relu6"),
    }
    assert space.size() == 6 * 2 * 3 * 2
    shapes = {(s.c_in, s.c_out, s.height, s.width) for s in space.all_operators()}
    # The stem has 16 channels; the first layer halves images of 9 x 7.
    assert shapes == {(1, 16, 9, 7), (16, 8, 9, 7), (8, 8, 5, 4), (8, 3, 1, 1)}


def test_parameters_of_a_plain_network_by_hand() -> None:
    """Stem, a convolution to 8 channels with a pool, a dense layer of 5, the classifier."""
    space = space_of("""
        stem_channels = 4
        [[stages]]
        width = 8
        reduction = 4
        pooling = "max"
        [[stages]]
        operator = "dense"
        channels = 5
        """)
    assert space.size() == 1
    architecture = space.architecture([0, 0])
    network = space.network(architecture)
    by_hand = (9 * 4 + 8) + (9 * 4 * 8 + 16) + (8 * 3 * 2 + 1) * 5 + (5 + 1) * 3
    assert sum(p.numel() for p in network.parameters()) == by_hand
    assert space.params_and_macs(architecture)[0] == by_hand


def test_layers_of_a_network_have_the_shapes_of_their_operators(rng) -> None:
    """The shapes in a running network are those of the `OpSpec` of each layer."""
    space = build_space("macro", example_options() | {"height": 29, "width": 18})
    for _ in range(5):
        architecture = space.sample(rng)
        network = space.network(architecture).eval()
        kept = [(row, o) for row, (_, o) in enumerate(architecture) if o != "skip_connect"]
        x = network.stem(torch.zeros(1, 3, 29, 18))
        for (row, option), block in zip(kept, network.blocks, strict=True):
            spec = space.spec(row, option)
            assert x[0].numel() == spec.c_in * spec.height * spec.width
            x = block(x)
            assert x.shape[1] == spec.c_out
        assert network.head(x).shape == (1, 10)


def test_the_multiplier_scales_widths_and_keeps_the_choices() -> None:
    whole = build_space("macro", example_options())
    half = build_space("macro", example_options() | {"width_multiplier": 0.5})
    assert half.choices == whole.choices
    wide = tiny_space("macro", width_multiplier=8, stages=[{"width": [1, 4096], "channels": 2}])
    assert wide.network(wide.architecture([1])).blocks[0].conv.out_channels == 8 * 4096
    pairs = [("conv_5x5_w32_relu", "conv_5x5_w16_relu"), ("conv_3x3_relu", "conv_3x3_relu")]
    for option, operator in pairs:
        assert whole.spec(0, option).name == option
        assert half.spec(0, option).name == operator
        assert half.spec(0, option).c_out == whole.spec(0, option).c_out // 2 == 8


DROPOUT = """
[[stages]]
width = 8
dropout = [0.0, 0.5]
"""


def test_dropout_acts_in_training_only() -> None:
    space = space_of(DROPOUT)
    assert options_of(space) == {"stage1/layer1": ("conv_3x3_relu", "conv_3x3_relu_drop0.5")}
    assert space.spec(0, "conv_3x3_relu_drop0.5") == space.spec(0, "conv_3x3_relu")
    torch.manual_seed(0)
    network = space.network(space.architecture([1]))
    x = torch.rand(1, 16, 9, 7)
    trained = network.blocks[0](x)
    kept = trained != 0
    evaluated = network.blocks[0].operator(x)
    assert 0.3 < (kept.sum() / (evaluated != 0).sum()).item() < 0.7
    torch.testing.assert_close(trained[kept], 2 * evaluated[kept])
    network.eval()
    assert torch.equal(network.blocks[0](x), network.blocks[0].operator(x))
    exported = export_network(network, (1, 9, 7))
    assert not {node.op_type for node in exported.graph.node} & {"Dropout", "RandomUniformLike"}


def test_options_that_differ_in_dropout_only_share_weights() -> None:
    space = space_of(DROPOUT)
    supernet = space.supernet().eval()
    assert len(supernet.layers[0].candidates) == 1
    images = torch.randn(2, 1, 9, 7)
    logits = [supernet(images, Mixture(torch.tensor([w]))) for w in ([1.0, 0.0], [0.25, 0.75])]
    torch.testing.assert_close(*logits)


def test_the_shipped_example_is_the_space_of_the_shipped_configuration() -> None:
    config = load_config("macro_slice")
    assert config.space.name == "macro"
    assert config.space.options == example_options()


def test_a_layered_space_as_people_write_it() -> None:
    """Kernels, strides, sizes of pools, numbers of layers, activations; sizes do not divide."""
    space = space_of("""
        [[stages]]
        layers = [2, 3, 4]
        kernel = [3, 5, 7]
        channels = 8
        stride = [1, 2, 3]
        pooling = "max"
        pool_size = [2, 3, 4]
        activation = ["relu", "sigmoid"]
        """)
    first, *others = space.choices
    # Of nine pairs of stride and window all are different: after stride 3 the pool's stride is 2.
    assert len(first.options) == 3 * 3 * 3 * 2
    assert [len(choice.options) for choice in others] == [6, 7, 7]
    assert space.size() == 54 * 6 * 7 * 7
    images = torch.randn(2, 1, 9, 7)
    for k in range(len(first.options)):
        network = space.network(space.architecture([k, 0, 6, 6])).eval()
        assert network.blocks[0](network.stem(images)).shape == (2, 8, 2, 2)
    cost = CostModel(space, table_of(space))
    rng = np.random.default_rng(0)
    for _ in range(5):
        architecture = space.sample(rng)
        taken = [space.spec(i, option) for i, (_, option) in enumerate(architecture)]
        operators = [*space.stem, *(spec for spec in taken if spec.name != SKIP), *space.head]
        (predicted_ms,), _ = cost.predict([architecture])
        assert predicted_ms == pytest.approx(sum(map(cost_in_table, operators)))


def test_layers_add_their_input_where_it_has_the_shape_of_their_output() -> None:
    space = space_of("""
        stem_channels = 8
        [[stages]]
        layers = [1, 2]
        channels = 16
        stride = 2
        residual = [true, false]
        norm = ["batch", "none"]
        """)
    assert options_of(space) == {
        "stage1/layer1": ("conv_3x3_relu", "conv_3x3_relu_bare"),
        "stage1/layer2": (
            *("conv_3x3_relu_residual", "conv_3x3_relu"),
            *("conv_3x3_relu_bare_residual", "conv_3x3_relu_bare", "skip_connect"),
        ),
    }


VALID = {"operator": "conv", "width": 8}


@pytest.mark.parametrize(
    "stage,words",
    [
        ({"kernal": 3}, ["stages.0.kernal", "unknown key"]),
        ({"kernel": []}, ["stages.0.kernel", "at least 1"]),
        ({"kernel": 4}, ["stages.0.kernel", "odd"]),
        ({"kernel": 99}, ["stages.0.kernel", "15"]),
        ({"kernel": True}, ["stages.0.kernel", "integer"]),
        ({"kernel": [3, 3]}, ["stages.0.kernel", "twice"]),
        ({"kernel": [3, "5"]}, ["stages.0.kernel.1", "'5'"]),
        ({"width": 0}, ["stages.0.width", "1"]),
        ({"width": 10**9}, ["stages.0.width", "4096"]),
        ({"width": list(range(1, 18))}, ["stages.0.width", "at most 16"]),
        ({"operator": "pool"}, ["stages.0.operator", "'separable'"]),
        ({"operator": ["conv", "dense"]}, ["stages.0", "operator", "dense"]),
        ({"operator": "dense", "kernel": 3}, ["stages.0", "kernel", "dense"]),
        ({"operator": "dense", "width": 1, "pooling": "max"}, ["stages.0", "pooling", "dense"]),
        ({"layers": 0}, ["stages.0.layers"]),
        ({"layers": [1, 3]}, ["stages.0.layers", "consecutive"]),
        ({"layers": [1, 10**12]}, ["stages.0.layers", "64"]),
        ({"stride": 5}, ["stages.0.stride", "4"]),
        ({"stride": [2, 3]}, ["stages.0", "pooling", "missing"]),
        ({"reduction": 17}, ["stages.0.reduction", "16"]),
        ({"pool_size": 2, "reduction": 2}, ["stages.0", "pool_size", "pooling"]),
        ({"groups": 3}, ["stages.0.groups", "16 channels", "3"]),
        ({"operator": "separable", "groups": 2}, ["stages.0", "groups", "separable"]),
        ({"operator": "dense", "norm": "none"}, ["stages.0", "norm", "dense"]),
        ({"stride": 4, "reduction": 2}, ["stages.0", "stride", "divisors"]),
        ({"stride": [1, 2]}, ["stages.0", "pooling", "missing"]),
        ({"pooling": "max"}, ["stages.0", "pooling", "reduction"]),
        ({"pooling": "min", "reduction": 2}, ["stages.0.pooling", "'avg'"]),
        ({"activation": "swish"}, ["stages.0.activation", "relu6"]),
        ({"dropout": 1.0}, ["stages.0.dropout", "less than 1"]),
        ({"dropout": -0.5}, ["stages.0.dropout", "0"]),
        (
            {"kernel": [1, 3, 5, 7, 9], "width": list(range(1, 15))},
            ["stages.0", "at most 64 combinations", "70"],
        ),
    ],
)
def test_a_bad_property_is_named(stage, words) -> None:
    with pytest.raises(InputError) as refused:
        build_space("macro", TINY_SIZES | {"stages": [VALID | stage]}, "SPACE.toml")
    line = str(refused.value)
    assert line.startswith("SPACE.toml.stages") or line.startswith("SPACE.toml: stages")
    assert all(word in line for word in words), line


@pytest.mark.parametrize(
    "options,words",
    [
        ({}, ["stages", "missing"]),
        ({"stages": []}, ["stages", "at least 1"]),
        ({"stages": [{}]}, ["stages.0", "width or channels"]),
        ({"stages": 3}, ["stages", "list"]),
        ({"stages": [3]}, ["stages.0"]),
        ({"stages": [VALID | {"stride": 4}] * 3}, ["stages.1", "3 x 2", "reduced by 4"]),
        ({"stages": [VALID | {"operator": "dense"}, VALID]}, ["stages.1", "follow a dense"]),
        ({"stages": [VALID | {"layers": 33}] * 2}, ["stages", "at most 64 layers"]),
        ({"stages": [VALID], "stem_stride": 3}, ["stem_stride"]),
        ({"stages": [VALID], "stem_channels": 0}, ["stem_channels"]),
        ({"stages": [VALID], "colour": 1}, ["colour", "unknown key"]),
        (
            {"stages": [VALID | {"operator": "dense"}], "height": 4096, "width": 4096},
            ["stages.0", "dense", "weights"],
        ),
    ],
)
def test_bad_options_are_named(options, words) -> None:
    with pytest.raises(InputError) as refused:
        build_space("macro", TINY_SIZES | options, "SPACE.toml")
    line = str(refused.value)
    assert line.startswith("SPACE.toml") and all(word in line for word in words), line


NUMBERS = st.integers(-1, 9)
PROPERTY = NUMBERS | st.lists(NUMBERS, max_size=3) | st.floats(0, 1) | st.text(max_size=3)
KEYS = st.sampled_from(
    "operator layers kernel width channels stride reduction pooling activation dropout x".split()
)
GOOD = {
    "operator": st.lists(st.sampled_from(["conv", "separable"]), min_size=1, max_size=2),
    "layers": st.sampled_from([1, [1, 2]]),
    "kernel": st.sampled_from([1, [3, 5]]),
    "channels": st.integers(1, 5),
    "reduction": st.sampled_from([1, 2]),
    "activation": st.sampled_from(["relu", ["relu", "hswish"]]),
}


def space_or_refusal(options: dict) -> SearchSpace | InputError:
    try:
        return build_space("macro", options)
    except InputError as error:
        return error


@settings(max_examples=60, deadline=None)
@given(st.lists(st.dictionaries(KEYS, PROPERTY) | st.fixed_dictionaries(GOOD), max_size=3))
def test_a_description_is_a_space_or_refused(stages) -> None:
    """A description is refused in one line, or its space has networks and can be rebuilt."""
    space = space_or_refusal(TINY_SIZES | {"stages": stages})
    if isinstance(space, InputError):
        assert "\n" not in str(space)
        return
    stated = json.loads(json.dumps(space.options.model_dump()))
    again = build_space("macro", stated)
    assert again.choices == space.choices
    assert again.options == space.options
    network = space.network(space.architecture([0] * len(space.choices))).eval()
    assert network(torch.zeros(1, 1, 9, 7)).shape == (1, 3)


def test_a_file_that_cannot_be_read_is_refused(tmp_path) -> None:
    path = tmp_path / "space.toml"
    for content, words in (
        (None, "cannot be read"),
        (b"\xff", "cannot be read"),
        (b"name = ", "not TOML"),
        (b"x = " + b"[" * 50_000, "not TOML"),
        (b"# " * 60_000, "too long"),
        (b"stages = []", "the search space is not named"),
        (b"name = 3", "the search space is not named"),
    ):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(InputError, match=f"space.toml.*{words}"):
            read_space_file(path)


def test_a_configuration_contains_the_space_of_its_file(tmp_path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('name = "macro"\nstem_channels = 4\n[[stages]]\nwidth = [3, 5]\n')
    config = load_config("macro_slice", [f"space.file={path}"])
    assert config.space.options == {"stem_channels": 4, "stages": [{"width": [3, 5]}]}
    resolved = tmp_path / "config.toml"
    resolved.write_text(config.to_toml())
    path.unlink()
    assert load_config(resolved) == config
    with pytest.raises(InputError, match="mine.toml"):
        load_config("macro_slice", [f"space.file={path}"])
    with pytest.raises(InputError, match="space.file.*replaces all other keys.*stem_channels"):
        load_config("macro_slice", [f"space.file={path}", "space.stem_channels=8"])
    with pytest.raises(InputError, match="space.file.*a path"):
        load_config("macro_slice", ["space.file=3"])


def test_genotype_round_trip(rng) -> None:
    space = tiny_space("macro")
    genotype = ["conv_3x3_relu_avg2", "skip_connect", "dense_relu6"]
    architecture = space.from_genotype(genotype)
    assert space.to_genotype(architecture) == genotype
    network = space.network(architecture)
    assert network.choice_modules == {"blocks.0": "stage1/layer1", "blocks.1": "stage2/layer1"}
