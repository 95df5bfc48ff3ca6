"""Vision transformers against published networks, brute force and their own slices."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from helpers.brute_force import assert_best, assert_expected, assert_predicted
from helpers.json_values import malformed_objects
from helpers.tiny import TINY_SIZES, table_of, tiny_space
from hypothesis import given, settings
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hwnas.architecture import Mixture
from hwnas.budget.coefficients import architecture_features
from hwnas.budget.cost import CostModel
from hwnas.calibration.fit import fit, to_calibration
from hwnas.calibration.prior import from_counts
from hwnas.deploy.export import INPUT, export_network
from hwnas.deploy.operator_shares import operator_shares
from hwnas.deploy.variants import VARIANTS, make_variant
from hwnas.errors import InputError
from hwnas.latency_tables.runtimes import OnnxRuntimeCpu
from hwnas.latency_tables.table import OpSpec
from hwnas.ops import build, params_and_macs
from hwnas.spaces import build_space
from hwnas.spaces.cells import drop_path
from hwnas.spaces.layers import SKIP
from hwnas.spaces.layouts import IMAGENET
from hwnas.spaces.vit import VitSpace

IMAGES = (2, TINY_SIZES["input_channels"], TINY_SIZES["height"], TINY_SIZES["width"])
TINY = tiny_space("vit")


def tiny_architectures() -> list[list[int]]:
    return [list(c) for c in itertools.product(*(range(len(c.options)) for c in TINY.choices))]


@pytest.mark.parametrize(
    "embedding,heads,params,macs_g",
    [
        # Parameters of deit_{tiny,small,base}_patch16_224 in timm, 5, 22 and 86 M in table 1 of the
        # paper; multiply-accumulates of timm's model cards.
        (192, 3, 5_717_416, 1.3),
        (384, 6, 22_050_664, 4.6),
        (768, 12, 86_567_656, 17.6),
    ],
)
def test_deit_has_its_published_size(embedding, heads, params, macs_g) -> None:
    """Without the class token and its position, since the mean of the tokens replaces it."""
    sizes = {"embeddings": [embedding], "heads": [heads], "mlp_ratios": [4.0]}
    space = build_space("vit", IMAGENET | sizes | {"blocks": 12, "fixed_blocks": 12})
    architecture = space.architecture([0] * len(space.choices))
    found, macs = space.params_and_macs(architecture)
    assert found == params - 2 * embedding
    assert macs / 1e9 == pytest.approx(macs_g, rel=0.05)
    with torch.device("meta"):
        network = space.network(architecture)
    assert sum(p.numel() for p in network.parameters()) == found


def test_autoformer_tiny_has_its_published_size() -> None:
    """5.7 M parameters, 1.3 G multiply-accumulates (table 2 of the paper).

    The network is that of the authors' experiments/subnet/AutoFormer-T.yaml, of 13 blocks. It has
    ratios of 3, which are not in the authors' search space, and tables of relative positions, which
    are not implemented here.
    """
    space = build_space("vit", IMAGENET | {"mlp_ratios": [3.0, 3.5, 4.0]})
    ratios = [3.5, 3.5, 3.0, 3.5, 3.0, 3.0, 4.0, 4.0, 3.5, 4.0, 3.5, 4.0, 3.5, 0]
    heads = [3] * 10 + [4, 3, 3, 0]
    genotype = {"embedding": 192, "heads": heads, "mlp_ratios": ratios}
    architecture = space.from_genotype(genotype)
    assert space.to_genotype(architecture) == genotype
    params, macs = space.params_and_macs(architecture)
    assert params / 1e6 == pytest.approx(5.7, rel=0.015)
    assert macs / 1e9 == pytest.approx(1.3, rel=0.025)


@pytest.mark.parametrize("name", ["attention_h3_d8", "mlp_r2.5", "token_classifier"])
def test_macs_are_those_that_pytorch_counts(name: str) -> None:
    spec = OpSpec(name, 24, 24, 3, 5)
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        build(spec).eval()(torch.randn(1, 15, 24))
    assert params_and_macs(spec)[1] == counter.get_total_flops() / 2 > 0


def test_images_are_padded_to_whole_patches() -> None:
    module = build(OpSpec("patch_embedding", 1, 6, 9, 7, 4)).eval()
    images = torch.randn(2, 1, 9, 7)
    padded = torch.zeros(2, 1, 12, 8)
    padded[..., :9, :7] = images
    patches = padded.unfold(2, 4, 4).unfold(3, 4, 4).reshape(2, 6, 16)
    weight = module.patches.weight.reshape(6, 16)
    expected = patches @ weight.T + module.patches.bias + module.positions
    torch.testing.assert_close(module(images), expected)


def test_every_architecture_s_network_is_a_slice_of_the_supernet() -> None:
    torch.manual_seed(0)
    supernet = TINY.supernet().double().eval()
    images = torch.randn(IMAGES, dtype=torch.float64)
    for chosen in tiny_architectures():
        architecture = TINY.architecture(chosen)
        network = TINY.network(architecture).double().eval()
        network.load_state_dict(supernet.weights_of(architecture))
        found = supernet(images, TINY.one_hot(architecture))
        torch.testing.assert_close(found, network(images), rtol=1e-10, atol=1e-12)


def test_a_supernet_has_the_weights_of_its_largest_network() -> None:
    for variant, options in VitSpace.variants.items():
        space = build_space("vit", options)
        largest = space.architecture(
            {c.name: [o for o in c.options if o != SKIP][-1] for c in space.choices}
        )
        with torch.device("meta"):
            parameters = sum(p.numel() for p in space.supernet().parameters())
        assert parameters == space.params_and_macs(largest)[0], variant


def test_a_mixture_of_embeddings_is_the_sum_of_their_logits() -> None:
    torch.manual_seed(0)
    supernet = TINY.supernet().double().eval()
    images = torch.randn(IMAGES, dtype=torch.float64)
    weights = torch.rand(TINY.mask.shape, dtype=torch.float64) * TINY.mask
    alone = torch.zeros(2, TINY_SIZES["classes"], dtype=torch.float64)
    for option in range(2):
        one = weights.clone()
        one[0] = 0
        one[0, option] = 1
        alone += weights[0, option] * supernet(images, Mixture(one))
    torch.testing.assert_close(supernet(images, Mixture(weights)), alone, rtol=1e-12, atol=1e-12)


@pytest.fixture(scope="module")
def priced():
    """Cost model, all architectures as option indices, and their summed operator latencies."""
    table = table_of(TINY)
    sizes = TINY.options
    latencies = []
    for chosen in tiny_architectures():
        names = [choice.options[k] for choice, k in zip(TINY.choices, chosen, strict=True)]
        c = sizes.embeddings[chosen[0]]
        specs = [OpSpec("patch_embedding", 1, c, 9, 7, 4), OpSpec("token_classifier", c, 3, 3, 2)]
        for name in names[1:]:
            if name != SKIP:
                suffix = "_d4" if name.startswith("attention") else ""
                specs.append(OpSpec(name + suffix, c, c, 3, 2))
        latencies.append(sum(table.latency_ms(spec) for spec in specs))
    return CostModel(TINY, table), np.array(tiny_architectures()), np.array(latencies)


def test_predicted_latency_is_the_sum_of_the_operators(priced) -> None:
    assert_predicted(*priced)


def test_expected_cost_is_that_of_all_architectures(priced) -> None:
    assert_expected(*priced)


@pytest.mark.parametrize("confidence", [None, 0.9])
@pytest.mark.parametrize("seed", range(6))
def test_k_best_are_those_of_brute_force(priced, seed: int, confidence: float | None) -> None:
    cost, chosen, _ = priced
    assert_best(cost, chosen, 4, seed, confidence)


def test_a_fitted_calibration_predicts_what_it_was_fitted_to(priced) -> None:
    _, chosen, latencies = priced
    architectures = [TINY.architecture(row) for row in chosen.tolist()]
    prior = from_counts(TINY)
    rows = {edges: architecture_features(TINY, architectures, edges) for edges in prior.edges}
    fitted = fit(prior, rows, latencies)
    calibration = to_calibration(TINY, fitted, networks=len(chosen), prior=prior.name)
    assert set(calibration.costs_ms["block1/mlp"]) == {
        f"mlp_r{ratio} of c{channels}" for ratio in (1, 2) for channels in (8, 12)
    }
    table = table_of(TINY).model_copy(update={"calibration": calibration})
    predicted = CostModel(TINY, table).predict(architectures)[0]
    np.testing.assert_allclose(predicted, latencies, rtol=0.02)


def test_skipped_halves_are_not_in_the_network() -> None:
    everything = {choice.name: choice.options[0] for choice in TINY.choices}
    short = TINY.architecture(everything | {"block2/attention": SKIP, "block2/mlp": SKIP})
    assert len(TINY.network(short).halves) == 2
    assert [SKIP in choice.options for choice in TINY.choices] == [False] * 3 + [True] * 2
    with pytest.raises(InputError):
        TINY.architecture(everything | {"block1/mlp": SKIP})


def test_drop_path_drops_whole_samples_of_tokens() -> None:
    torch.manual_seed(0)
    dropped = drop_path(torch.ones(64, 3, 2), 0.5).flatten(start_dim=1)
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    assert (dropped == dropped[:, :1]).all()
    network = TINY.network(TINY.sample(np.random.default_rng(0))).train()
    network.drop_path = 0.5
    assert network(torch.randn(IMAGES)).shape == (2, TINY_SIZES["classes"])


@pytest.mark.parametrize(
    "options,cause",
    [
        ({"embeddings": [12, 8]}, "embeddings.*ascending"),
        ({"embeddings": []}, "embeddings"),
        ({"heads": [0, 1]}, "heads"),
        ({"heads": [2, 2]}, "heads.*ascending"),
        ({"head_channels": 5}, "head_channels"),
        ({"mlp_ratios": [1.3]}, "mlp_ratios.*multiples of 0.5"),
        ({"fixed_blocks": 3}, "fixed_blocks.*at most 2"),
    ],
)
def test_bad_options_name_key_and_cause(options, cause) -> None:
    with pytest.raises(InputError, match=cause):
        tiny_space("vit", **options)


def test_genotype_round_trip(rng) -> None:
    for _ in range(10):
        architecture = TINY.sample(rng)
        assert TINY.from_genotype(TINY.to_genotype(architecture)) == architecture


@settings(max_examples=60, deadline=None)
@given(malformed_objects(("embedding", "heads", "mlp_ratios")))
def test_malformed_genotypes_are_refused(genotype) -> None:
    with pytest.raises(InputError):
        TINY.from_genotype(genotype)


@pytest.fixture(scope="module")
def exported():
    """A network and its model."""
    torch.manual_seed(0)
    network = TINY.network(TINY.architecture([1, 1, 1, 1, 1])).eval()
    return network, export_network(network, IMAGES[1:])


def test_onnx_runtime_fuses_the_exported_gelu(exported) -> None:
    feeds = {INPUT: np.ones((1, *IMAGES[1:]), dtype=np.float32)}
    document = operator_shares(exported[1], {}, OnnxRuntimeCpu(1), feeds)
    assert any("Gelu" in kind for kind in document["shares"])
    assert "Erf" not in document["shares"]


@pytest.mark.parametrize("name", VARIANTS)
def test_number_formats_of_a_transformer_run(name: str, exported, tmp_path) -> None:
    network, model = exported
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    images = np.random.default_rng(0).standard_normal((16, *IMAGES[1:]), dtype=np.float32)
    made = make_variant(name, path, [{INPUT: images}])
    session = OnnxRuntimeCpu(1).session(made)
    (logits,) = session.run(None, {INPUT: images})
    expected = network(torch.from_numpy(images)).detach().numpy()
    noise = np.square(logits - expected).sum() / np.square(expected).sum()
    assert noise < 10**-1.5
