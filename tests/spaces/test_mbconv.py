"""The layer-wise mobile spaces against published networks, sizes and tables."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers.saved_memory import saved_bytes
from helpers.tiny import tiny_space
from hypothesis import given, settings
from hypothesis import strategies as st

from hwnas.architecture import Mixture
from hwnas.budget.cost import CostModel
from hwnas.errors import InputError
from hwnas.latency_tables.shipped import load_shipped
from hwnas.nn.mixed_op import use_kernels
from hwnas.ops import params_and_macs
from hwnas.ops.parts import round_channels
from hwnas.spaces import build_space
from hwnas.spaces.layouts import IMAGENET

MOBILENETV2 = {"layout": "proxylessnas", "stage_channels": [24, 32, 64, 96, 160, 320]}
PROXYLESS_MOBILE = {"layout": "proxylessnas", "stage_channels": [32, 40, 80, 96, 192, 320]}

# Kernel and expansion of each layer, `g` for two groups, `-` for a skip.
# FBNet: the authors' definitions (facebookresearch/mobile-vision, fbnet_modeldef_cls_fbnet.py), but
# for the second layer of FBNet-B's fourth stage, which has expansion 6 there and 1 in the network
# that they released (FBNet/models/FBNet-B), whose counts are the published ones.
# ProxylessNAS: the networks that mit-han-lab/proxylessnas publishes, as in pytorchcv 0.0.74.
# MobileNetV2: Sandler et al., CVPR 2018, table 2.
PUBLISHED = {
    "FBNet-A": (
        {"layout": "fbnet", "head_channels": 1504},
        "- 33 31 - - 56 33 51 33 56 53 51g 56 36 51g 53 31g 56 56 53 56 56",
    ),
    "FBNet-B": (
        {"layout": "fbnet"},
        "31 36 51 31 31 56 53 36 56 56 51 - 53 56 31 51 53 56 51 56 56 36",
    ),
    "FBNet-C": (
        {"layout": "fbnet"},
        "31 36 - 31 31 56 53 56 36 56 53 56 56 56 56 56 53 56 56 56 56 36",
    ),
    "MobileNetV2": (MOBILENETV2, "36 36 - - 36 36 36 - 36 36 36 36 36 36 36 - 36 36 36 - 36"),
    "ProxylessNAS-GPU": (
        {"layout": "proxylessnas", "width_multiplier": 1.35},
        "53 - - - 73 - - 33 76 - - 53 56 - 33 53 76 76 76 56 76",
    ),
    "ProxylessNAS-CPU": (
        {"layout": "proxylessnas", "width_multiplier": 1.12},
        "36 33 33 33 36 33 33 53 36 - - 33 56 33 33 33 56 53 53 33 56",
    ),
    "ProxylessNAS-Mobile": (
        PROXYLESS_MOBILE,
        "53 33 - - 73 33 53 53 76 53 53 53 56 53 53 53 76 76 73 73 76",
    ),
}


def published(name: str):
    """The space and architecture of a published network."""
    options, text = PUBLISHED[name]
    space = build_space("mbconv", IMAGENET | options)
    blocks = [
        "skip_connect" if t == "-" else f"mbconv_{t[0]}x{t[0]}_e{t[1]}" + "_g2" * t.endswith("g")
        for t in text.split()
    ]
    return space, space.from_genotype(blocks)


@pytest.mark.parametrize(
    "name,params,macs,params_m,macs_m",
    [
        # The paper's 3.4 M is 3.47 M, without the batch norms' 34 k, cut off: the authors' table
        # says 3.47 (tensorflow/models, research/slim/nets/mobilenet).
        ("MobileNetV2", 3_504_872, 300_774_272, 3.47, 300),
        # FBNets: the table of facebookresearch/mobile-vision. The paper (table 3) says the same of
        # FBNet-A, cut off. Of FBNet-B it says 4.5 M parameters, 7 % less than its blocks have; of
        # FBNet-C 375 M, 3 % less, which is what it has with a head of 1504 channels, and then it
        # has 4.9 M parameters, not 5.5 M.
        ("FBNet-A", 4_321_464, 249_921_848, 4.3, 249.4),
        ("FBNet-B", 4_813_048, 296_614_728, 4.8, 295.6),
        ("FBNet-C", 5_572_200, 384_960_160, 5.5, 383.0),
        ("ProxylessNAS-GPU", 7_119_848, 465_260_160, 7.1, 465),
        ("ProxylessNAS-CPU", 4_361_648, 439_243_864, 4.4, 439),
        ("ProxylessNAS-Mobile", 4_080_512, 320_427_584, 4.1, 320),
    ],
)
def test_counts_are_the_published_ones(name, params, macs, params_m, macs_m) -> None:
    space, architecture = published(name)
    chosen = (space.operators(row, option) for row, option in enumerate(space.chosen(architecture)))
    operators = sum(chosen, space.fixed_operators())
    counts = np.array([np.array(params_and_macs(spec)) * n for spec, n in operators.items()])
    assert tuple(counts.sum(axis=0)) == (params, macs)
    assert params / 1e6 == pytest.approx(params_m, rel=0.014)
    assert macs / 1e6 == pytest.approx(macs_m, rel=0.006)
    with torch.device("meta"):
        network = space.network(architecture)
    assert sum(p.numel() for p in network.parameters()) == params
    assert space.to_genotype(architecture) == [option for _, option in architecture]


@pytest.mark.parametrize(
    "layout,as_counted,exact",
    [("fbnet", (9, 22), 8**6 * 9**16), ("proxylessnas", (7, 21), 6**6 * 7**15)],
)
def test_sizes_are_those_of_the_papers(layout, as_counted, exact) -> None:
    """FBNet counts 9^22, about 10^21, ProxylessNAS 7^21: with a skip in every layer."""
    space = build_space("mbconv", {"layout": layout})
    assert (space.max_options, len(space.choices)) == as_counted
    assert space.size() == exact
    log10 = {"fbnet": 20.99, "proxylessnas": 17.75}[layout]
    assert len(space.choices) * math.log10(space.max_options) == pytest.approx(log10, abs=0.01)


def test_the_pixel_table_covers_the_space_of_proxylessnas() -> None:
    space = build_space("mbconv", IMAGENET | {"layout": "proxylessnas"})
    table = load_shipped("proxylessnas-pixel1")
    cost = CostModel(space, table)
    largest = space.architecture([space.blocks.index("mbconv_7x7_e6")] * len(space.choices))
    parts = [*space.fixed_operators().elements()]
    parts += [space.spec(row, option) for row, (_, option) in enumerate(largest)]
    assert len(parts) == 4 + 21
    assert cost.latency_ms(largest) == pytest.approx(sum(map(table.latency_ms, parts)))


def test_the_raspberry_table_has_all_searched_blocks_of_fbnet() -> None:
    space = build_space("mbconv", IMAGENET | {"layout": "fbnet"})
    missing = load_shipped("fbnet-rpi4").missing(space.all_operators())
    assert set(missing) == set(space.fixed_operators())


@settings(max_examples=40, deadline=None)
@given(st.floats(0.1, 1e4))
def test_channels_are_rounded_as_the_papers_say(channels: float) -> None:
    rounded = round_channels(channels)
    assert rounded % 8 == 0
    assert rounded >= 8
    assert rounded >= 0.9 * channels
    assert abs(rounded - channels) <= 4 or rounded == 8 or rounded - 8 < 0.9 * channels


@pytest.mark.parametrize(
    "halvings,sides", [(5, [7, 7]), (3, [28, 28]), (2, [56, 56]), (0, [224] * 2)]
)
def test_the_first_strides_are_dropped(halvings, sides) -> None:
    space = build_space("mbconv", IMAGENET | {"layout": "fbnet", "halvings": halvings})
    classifier = space.head[-1]
    assert [classifier.height, classifier.width] == sides
    strides = [space.stem[0].stride, *(layer.stride for layer in space.layers)]
    where = [i for i, stride in enumerate(strides) if stride == 2]
    assert where == [0, 2, 6, 10, 18][5 - halvings :]
    assert space.choices == build_space("mbconv", {"layout": "fbnet"}).choices


def test_every_width_has_the_same_choices() -> None:
    """They do not depend on rounding, so a narrow supernet can search for wide networks."""
    spaces = [
        build_space("mbconv", {"layout": "proxylessnas", "width_multiplier": width})
        for width in (0.1, 0.5, 1.0, 1.4)
    ]
    skippable = ["skip_connect" in choice.options for choice in spaces[0].choices]
    assert [i for i, skip in enumerate(skippable) if not skip] == [0, 4, 8, 12, 16, 20]
    assert all(space.choices == spaces[0].choices for space in spaces)


def test_squeeze_excitation_is_fixed_or_a_choice() -> None:
    plain, every, choice = (
        tiny_space("mbconv", squeeze_excitation=value) for value in ("none", "all", "choice")
    )
    excited = tuple(f"{block}_se" for block in plain.blocks)
    assert every.blocks == excited
    assert choice.blocks == (*plain.blocks, *excited)
    rng = np.random.default_rng(0)
    architecture = choice.sample(rng)
    network = choice.network(architecture).eval()
    assert network(torch.randn(2, 1, 9, 7)).shape == (2, 3)


@pytest.mark.parametrize(
    "options,cause",
    [
        ({"layout": "mobilenet"}, "layout"),
        ({"layout": "small", "halvings": 4}, "halvings: .*at most 3"),
        ({"layout": "small", "stage_channels": [8, 8]}, "stage_channels: .*3 numbers"),
        ({"layout": "small", "stage_channels": [8, 0, 8]}, "stage_channels"),
        ({"activation": "swish"}, "activation"),
    ],
)
def test_bad_options_name_key_and_cause(options, cause) -> None:
    with pytest.raises(InputError, match=cause):
        build_space("mbconv", options)


TINY = tiny_space("mbconv", stage_layers=2)


@settings(max_examples=40, deadline=None)
@given(st.recursive(st.none() | st.text(max_size=8), lambda inner: st.lists(inner, max_size=9)))
def test_malformed_genotypes_are_refused(genotype) -> None:
    with pytest.raises(InputError):
        TINY.from_genotype(genotype)


def test_genotype_round_trip(rng) -> None:
    space = tiny_space("mbconv", squeeze_excitation="choice")
    for _ in range(10):
        architecture = space.sample(rng)
        assert space.from_genotype(space.to_genotype(architecture)) == architecture


def test_a_single_path_needs_the_memory_of_its_network(rng) -> None:
    space = tiny_space("mbconv", height=24, width=24, width_multiplier=1.0, stage_layers=2)
    architecture = space.architecture([len(space.blocks) - 1] * len(space.choices))
    mixture = space.one_hot(architecture)
    images = torch.randn(8, 1, 24, 24)
    supernet, network = space.supernet().train(), space.network(architecture).train()
    alone = saved_bytes(lambda: network(images))
    path = saved_bytes(lambda: supernet(images, mixture))
    everything = saved_bytes(lambda: supernet(images, Mixture(mixture.weights)))
    assert path < 1.1 * alone
    assert everything > 3 * path
    use_kernels(supernet, "auto", "all")
    assert saved_bytes(lambda: supernet(images, Mixture(mixture.weights))) < everything / 3
