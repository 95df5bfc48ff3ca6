"""Decoders: their choices, what training and deployment run, and sizes that are refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.tiny import tiny_space

from hwnas.errors import InputError
from hwnas.ops.encoder import Decoded
from hwnas.spaces import build_space
from hwnas.training.train import final_weights

SMALL = {"input_channels": 5, "height": 1, "width": 1, "classes": 1, "image_size": [8, 12]}


def small_space(**options):
    return build_space("decoder", SMALL | {"channels": 2} | options)


def test_every_stage_doubles_the_sides_and_refines_the_map() -> None:
    space = small_space(layers=1, kernels=[3], widths=[1, 2], upsamplings=["nearest", "subpixel"])
    up, refine = ("up_nearest_3x3", "up_subpixel_3x3"), ("refine_3x3_w1", "refine_3x3_w2")
    expected = {"layer1": up, "layer2": (*refine, "skip_connect")}
    assert {c.name: c.options for c in space.choices} == {
        f"stage{stage}/{layer}": options for stage in (1, 2) for layer, options in expected.items()
    }
    assert space.size() == (2 * 3) ** 2
    assert [str(spec.name) for spec in space.stem] == ["project_2x3"]


def test_channels_grow_where_sides_are_halved() -> None:
    space = small_space(channels=3, growth=4, layers=0)
    channels = [
        (spec.c_in, spec.c_out)
        for spec in (space.spec(0, "up_nearest_3x3"), space.spec(1, "up_nearest_3x3"))
    ]
    assert (space.stem[0].c_out, *channels) == (48, (48, 12), (12, 3))


def test_a_network_makes_images_of_latent_vectors(rng) -> None:
    space = small_space()
    network = space.network(space.sample(rng)).eval()
    images = network(torch.randn(3, 5, 1, 1)).detach()
    assert images.shape == (3, 1, 8, 12)
    assert 0 <= float(images.min()) <= float(images.max()) <= 1


def test_training_decodes_what_the_encoder_finds(rng) -> None:
    """mean + deviation * noise, in the network and in the supernet of one path."""
    space = small_space()
    architecture = space.sample(rng)
    noise, images = torch.randn(4, 5, 1, 1), torch.rand(4, 1, 8, 12)
    network, supernet = space.network(architecture).eval(), space.supernet().eval()
    mixture = space.one_hot(architecture)
    for module, decode in (
        (network, network),
        (lambda x: supernet(x, mixture), lambda z: supernet(z, mixture)),
    ):
        found = module((noise, images))
        assert isinstance(found, Decoded)
        deviation = (found.log_variances / 2).exp()
        latents = found.means + deviation * noise[:, :, 0, 0]
        torch.testing.assert_close(found.images, decode(latents[:, :, None, None]))


def test_means_of_a_batch_are_centred() -> None:
    torch.manual_seed(0)
    encoder = small_space().encoder().train()
    mean, _ = encoder(torch.rand(32, 1, 8, 12))
    torch.testing.assert_close(mean.mean(dim=0), torch.zeros(5), atol=1e-5, rtol=0)


def test_the_encoder_learns_and_is_not_deployed(rng) -> None:
    space = small_space()
    architecture = space.sample(rng)
    network = space.network(architecture)
    found = network((torch.randn(4, 5, 1, 1), torch.rand(4, 1, 8, 12)))
    found.images.sum().backward()
    assert all(p.grad is not None for p in network.encoder.parameters())
    weights = final_weights(network)
    assert not any(name.startswith("encoder.") for name in weights)
    deployed = space.network(architecture)
    deployed.drop_training_parts()
    deployed.load_state_dict(weights)
    assert sum(p.numel() for p in deployed.parameters()) == space.params_and_macs(architecture)[0]


@pytest.mark.parametrize(
    "options, words",
    [
        ({"image_size": [28, 30]}, "28 x 30.*multiples of 4"),
        ({"doublings": 3}, "8 x 12.*3 times.*multiples of 8"),
        ({"upsamplings": ["cubic"]}, "upsamplings.*nearest, bilinear"),
        ({"kernels": [3, 3]}, "kernels.*different ones of 1, 3"),
        ({"head": "classifier"}, "head.*image.*classifier"),
        ({"image_size": [8]}, "height, width"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(options, words) -> None:
    with pytest.raises(InputError, match=words) as caught:
        small_space(**options)
    assert "\n" not in str(caught.value)


def test_other_spaces_cannot_generate_images() -> None:
    with pytest.raises(InputError, match="mbconv cannot have the head.*image"):
        tiny_space("mbconv", head="image", image_size=[8, 8])
    assert np.prod([len(c.options) for c in tiny_space("decoder").choices]) == 8 * 5
