"""Elastic networks against the paper's counts, brute force and their shared weights."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.brute_force import assert_best, assert_expected, assert_predicted
from helpers.json_values import malformed_objects
from helpers.saved_memory import saved_bytes
from helpers.tiny import TINY_SIZES, table_of, tiny_space
from hypothesis import given, settings

from hwnas.architecture import Architecture, Mixture
from hwnas.budget.cost import CostModel
from hwnas.deploy.export import INPUT, export_network
from hwnas.errors import InputError
from hwnas.latency_tables.runtimes import OnnxRuntimeCpu
from hwnas.latency_tables.table import OpSpec
from hwnas.ops import build, params_and_macs
from hwnas.spaces import build_space
from hwnas.spaces.elastic import ElasticSpace

IMAGES = (4, TINY_SIZES["input_channels"], TINY_SIZES["height"], TINY_SIZES["width"])
TINY = tiny_space("elastic", stage_channels=[16, 16, 16], expansions=[1, 3], kernels=[3])
"""Few enough architectures to enumerate; `WHOLE` is for tests of weights."""
WHOLE = tiny_space("elastic", kernels=[3, 5, 7], expansions=[1, 3, 6], resolutions=[5, 6, 9])
OFA = build_space("elastic", ElasticSpace.variants["ofa"])


def all_chosen(space) -> list[list[int]]:
    """Every network once, as option indices."""
    rows = itertools.product(*(range(len(c.options)) for c in space.choices))
    return [list(r) for r in rows if all(r[idle] == 0 for idle in space.idle(r))]


def largest(space) -> Architecture:
    return space.architecture([len(c.options) - 1 for c in space.choices])


def trained(space, dtype=torch.float64):
    """A supernet with random parameters and running statistics instead of initial ones."""
    torch.manual_seed(0)
    supernet = space.supernet().to(dtype)
    with torch.no_grad():
        for parameter in supernet.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        for name, buffer in supernet.named_buffers():
            if "running" in name:
                buffer.copy_(torch.rand_like(buffer) + 0.5)
    return supernet


def test_the_number_of_networks_is_the_paper_s() -> None:
    """((3 x 3)^2 + (3 x 3)^3 + (3 x 3)^4)^5 for each resolution, about 2 x 10^19 (section 3.2).

    The layout of ProxylessNAS has an additional last stage of one layer.
    """
    paper = (9**2 + 9**3 + 9**4) ** 5
    assert OFA.size() == 3 * paper * 9
    assert paper == pytest.approx(2e19, rel=0.1)


def test_a_supernet_has_the_weights_of_its_largest_network_and_the_kernel_transforms() -> None:
    assert OFA.stem(2) == [
        OpSpec("conv_bn_3x3_relu6", 3, 32, 224, 224, 2),
        OpSpec("ds_conv_3x3_relu6", 32, 16, 112, 112),
    ]
    assert OFA.stem(0)[0] == OpSpec("resized_128x128_conv_bn_3x3_relu6", 3, 32, 224, 224, 2)
    with torch.device("meta"):
        supernet = OFA.supernet()
        network = OFA.network(largest(OFA))
    transforms = [p for name, p in supernet.named_parameters() if "transforms" in name]
    # In each of 21 layers one from 7x7 to 5x5 and one from 5x5 to 3x3.
    assert sum(p.numel() for p in transforms) == 21 * (25**2 + 9**2)
    whole = sum(p.numel() for p in supernet.parameters())
    assert whole - sum(p.numel() for p in transforms) == sum(
        p.numel() for p in network.parameters()
    )


@pytest.mark.parametrize("name", ["resized_12x10_conv_bn_3x3_relu", "conv_bn_3x3_relu"])
def test_a_resized_operator_resizes_its_input(name: str) -> None:
    images = torch.randn(2, 1, 20, 16)
    module = build(OpSpec(name, 1, 4, 20, 16, 2)).eval()
    seen = images if name.startswith("conv") else F.interpolate(images, (12, 10), mode="bilinear")
    inner = build(OpSpec("conv_bn_3x3_relu", 1, 4, 12, 10, 2)).eval()
    inner.load_state_dict(module.state_dict())
    torch.testing.assert_close(module(images), inner(seen))
    assert params_and_macs(OpSpec(name, 1, 4, 20, 16, 2))[1] == 4 * 9 * inner(seen)[0, 0].numel()


@pytest.mark.parametrize("training", [False, True])
def test_every_architecture_s_network_is_a_part_of_the_supernet(training: bool, rng) -> None:
    supernet = trained(WHOLE)
    images = torch.randn(IMAGES, dtype=torch.float64)
    architectures = [WHOLE.sample(rng) for _ in range(30)]
    smallest = WHOLE.architecture([0] * len(WHOLE.choices))
    for architecture in (smallest, largest(WHOLE), *architectures):
        network = WHOLE.network(architecture).double().train(training)
        network.load_state_dict(supernet.weights_of(architecture))
        with torch.no_grad():
            expected = network(images)
            found = supernet.train(training)(images, WHOLE.one_hot(architecture))
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_recalibrated_statistics_are_inherited() -> None:
    """Recalibrating batch norms in the supernet equals recalibrating them in the network."""
    supernet = trained(WHOLE)
    architecture = WHOLE.sample(np.random.default_rng(5))
    network = WHOLE.network(architecture).double().train()
    network.load_state_dict(supernet.weights_of(architecture))
    images = torch.randn(IMAGES, dtype=torch.float64)
    supernet.train()(images, WHOLE.one_hot(architecture))
    network(images)
    found = supernet.weights_of(architecture)
    for name, value in network.state_dict().items():
        if "num_batches" not in name:
            torch.testing.assert_close(found[name], value, rtol=1e-12, atol=1e-12)


def test_a_single_path_needs_the_memory_of_its_network() -> None:
    space = tiny_space("elastic", kernels=[3, 5, 7], expansions=[1, 3, 6], height=24, width=24)
    supernet = trained(space, torch.float32).train()
    images = torch.randn(16, 1, 24, 24)
    for chosen in ([0] * len(space.choices), [len(c.options) - 1 for c in space.choices]):
        architecture = space.architecture(chosen)
        network = space.network(architecture).train()
        alone = saved_bytes(lambda n=network: n(images))
        among = saved_bytes(lambda a=architecture: supernet(images, space.one_hot(a)))
        parameters = sum(4 * p.numel() for p in supernet.parameters())
        assert among <= 1.05 * alone + parameters


def test_a_mixture_of_a_layer_is_the_sum_of_its_blocks() -> None:
    supernet = trained(WHOLE).eval()
    mixed, row = supernet.blocks[1], WHOLE.layer_rows[1]
    x = torch.randn(2, mixed.largest.expand.in_channels, 5, 4, dtype=torch.float64)
    weights = torch.rand(WHOLE.mask.shape, dtype=torch.float64)
    expected = torch.zeros((), dtype=torch.float64)
    for option in range(len(WHOLE.sizes)):
        spec = replace(WHOLE.spec(row, option, 0), height=5, width=4)
        block = build(spec).double().eval()
        block.load_state_dict(mixed.weights_of(option))
        expected = expected + weights[row, option] * block(x)
    torch.testing.assert_close(mixed(x, Mixture(weights), row), expected)


@pytest.mark.parametrize("which", ["resolution", "stage2/depth"])
def test_mixtures_of_resolutions_and_of_depths(which: str, rng) -> None:
    """Resolutions are mixed at the outputs, depths behind their stage."""
    supernet = trained(WHOLE).eval()
    images = torch.randn(IMAGES, dtype=torch.float64)
    names = [choice.name for choice in WHOLE.choices]
    row = names.index(which)
    mixture = WHOLE.one_hot(largest(WHOLE)).weights.double()
    mixture[row] = torch.rand(mixture.shape[1], dtype=torch.float64) * WHOLE.mask[row]

    def with_one(option: int) -> torch.Tensor:
        one = mixture.clone()
        one[row] = 0
        one[row, option] = 1
        seen = []
        hook = (
            supernet.head.register_forward_hook(lambda *call: seen.append(call[-1]))
            if which == "resolution"
            else supernet.blocks[4].register_forward_pre_hook(lambda *call: seen.append(call[1][0]))
        )
        supernet(images, Mixture(one if option >= 0 else mixture))
        hook.remove()
        return seen

    options = range(len(WHOLE.choices[row].options))
    if which == "resolution":
        total = sum(mixture[row, k] * with_one(k)[k] for k in options)
        torch.testing.assert_close(supernet(images, Mixture(mixture)), total)
    else:
        expected = sum(mixture[row, k] * with_one(k)[-1] for k in options)
        torch.testing.assert_close(with_one(-1)[-1], expected)


@pytest.fixture(scope="module")
def priced():
    """Cost model, all architectures as option indices, and their summed operator latencies."""
    table = table_of(TINY)
    chosen = all_chosen(TINY)
    latencies = []
    for row in chosen:
        specs = [*TINY.stem(row[0]), *TINY.head(row[0])]
        running = TINY.running_layers(TINY.architecture(row))
        specs += [TINY.spec(layer, row[layer], row[0]) for layer in running]
        assert len(specs) == 3 + sum(TINY.to_genotype(TINY.architecture(row))["depths"])
        latencies.append(sum(table.latency_ms(spec) for spec in specs))
    return CostModel(TINY, table), np.array(chosen), np.array(latencies)


def test_predicted_latency_is_the_sum_of_the_operators(priced) -> None:
    assert len(priced[1]) == TINY.size()
    assert_predicted(*priced)


def test_expected_cost_is_that_of_all_architectures(priced) -> None:
    """The probabilities of an idle layer's options sum to 1."""
    assert_expected(*priced)


@pytest.mark.parametrize("seed", range(4))
def test_k_best_are_those_of_brute_force(priced, seed: int) -> None:
    """An idle layer counts its best score, so that depths are not preferred for their length."""
    cost, chosen, _ = priced
    assert_best(cost, chosen, 5, seed, 0.9 if seed % 3 == 0 else None)


def test_idle_layers_take_their_first_option(rng) -> None:
    chosen = [len(choice.options) - 1 for choice in TINY.choices]
    chosen[1] = 0  # the first stage has one of its two layers
    names = [choice.name for choice in TINY.choices]
    assert names[:4] == ["resolution", "stage1/depth", "stage1/layer1", "stage1/layer2"]
    assert TINY.idle(chosen) == (3,)
    assert TINY.chosen(TINY.architecture(chosen))[3] == 0
    options = {c.name: c.options[k] for c, k in zip(TINY.choices, chosen, strict=True)}
    with pytest.raises(InputError, match="stage1/layer2"):
        TINY.architecture(options)
    architecture = TINY.architecture(chosen)
    for _ in range(50):
        other = TINY.mutate(architecture, rng)
        assert other != architecture
        architecture = other


def test_phases_add_kernels_then_depths_then_expansions() -> None:
    supernet = WHOLE.supernet()
    smallest = WHOLE.architecture([0] * len(WHOLE.choices))
    seen = [WHOLE.to_genotype(supernet.at_phase(smallest, p)) for p in range(supernet.phases + 1)]
    assert [s["resolution"] for s in seen] == [5] * 5
    assert [(s["kernels"][0], s["depths"], s["expansions"][0]) for s in seen] == [
        (7, [2, 2, 2], 6),
        (3, [2, 2, 2], 6),
        (3, [1, 1, 1], 6),
        (3, [1, 1, 1], 3),
        (3, [1, 1, 1], 1),
    ]
    assert supernet.at_phase(smallest, supernet.phases) == smallest
    assert all(supernet.at_phase(largest(WHOLE), p) == largest(WHOLE) for p in range(5))


def test_sorting_channels_keeps_the_outputs_of_trained_architectures(rng) -> None:
    supernet = trained(WHOLE).eval()
    images = torch.randn(IMAGES, dtype=torch.float64)
    assert supernet.reordering(1) == supernet.reordering(2) == []
    for phase, expansion in ((3, 3), (4, 1)):
        trained_before = [supernet.at_phase(WHOLE.sample(rng), phase - 1) for _ in range(10)]
        before = [supernet(images, WHOLE.one_hot(a)) for a in trained_before]
        for tensor, dimension, order in supernet.reordering(phase):
            assert sorted(order.tolist()) == list(range(tensor.shape[dimension]))
            tensor.data.copy_(tensor.data.index_select(dimension, order))
        for architecture, expected in zip(trained_before, before, strict=True):
            found = supernet(images, WHOLE.one_hot(architecture))
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
        for block in supernet.blocks:
            count = expansion * block.largest.expand.in_channels
            sizes = block.largest.project.weight.abs().sum(dim=(0, 2, 3))
            upper = sizes[count : 2 * count] if phase == 3 else sizes[count : 3 * count]
            assert sizes[:count].min() >= upper.max()


@pytest.mark.parametrize(
    "options,cause",
    [
        ({"resolutions": [9, 6]}, "ascending"),
        ({"resolutions": [6, 10]}, "at most 9"),
        ({"kernels": [4]}, "kernels"),
        ({"kernels": []}, "kernels"),
        ({"expansions": [6, 3]}, "expansions.*ascending"),
        ({"expansions": [2]}, "expansions"),
        ({"least_layers": 0}, "least_layers"),
        ({"head": "dense"}, "head"),
    ],
)
def test_bad_options_name_key_and_cause(options, cause) -> None:
    with pytest.raises(InputError, match=cause):
        tiny_space("elastic", **options)


def test_with_one_resolution_and_fixed_depths_it_is_a_chain_of_layers() -> None:
    space = tiny_space("elastic", resolutions=[], least_layers=9)
    assert [c.options for c in space.choices][:2] == [("r9",), ("d2",)]
    assert not space.idle([0] * len(space.choices))
    assert space.stem(0)[0].name == "conv_bn_3x3_relu"
    assert space.supernet().phases == 2


def test_genotype_round_trip(rng) -> None:
    for _ in range(20):
        architecture = WHOLE.sample(rng)
        assert WHOLE.from_genotype(WHOLE.to_genotype(architecture)) == architecture


@settings(max_examples=60, deadline=None)
@given(malformed_objects(("resolution", "depths", "kernels", "expansions")))
def test_malformed_genotypes_are_refused(genotype) -> None:
    with pytest.raises(InputError):
        WHOLE.from_genotype(genotype)


def test_the_exported_model_resizes_its_input() -> None:
    torch.manual_seed(0)
    images = torch.randn(IMAGES)
    network = WHOLE.network(WHOLE.architecture([0] * len(WHOLE.choices))).eval()
    model = export_network(network, IMAGES[1:])
    assert "Resize" in {node.op_type for node in model.graph.node}
    session = OnnxRuntimeCpu(1).session(model.SerializeToString())
    (found,) = session.run(None, {INPUT: images.numpy()})
    np.testing.assert_allclose(found, network(images).detach().numpy(), rtol=1e-4, atol=1e-5)
