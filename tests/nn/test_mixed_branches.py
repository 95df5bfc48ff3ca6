"""The supernet's modules for choices of one's own, against the plain weighted sums."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers.own_networks import Residual, conv_bn
from torch import Tensor, nn

import hwnas
from hwnas.architecture import Mixture
from hwnas.nn import Choice, Repeat, Width
from hwnas.nn.mixed_branches import MixedBranches, MixedRepeat, MixedWidth, Mixing, mixed
from hwnas.nn.mixed_op import use_kernels

WEIGHTS = [0.4, -0.3, 0.9, 0.2]


class Untraceable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = conv_bn(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        return y if y.sum() > 1e9 else 2 * y


def choice() -> Choice:
    torch.manual_seed(0)
    modules = {"a": conv_bn(4, 4, 3), "b": Residual(4), "c": nn.Identity(), "d": Untraceable()}
    found = Choice(modules)
    found.rows = (0,)
    for module in found.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    return found


def mixing(weights: list[float], active: tuple[int, ...] | None = None) -> Mixing:
    found = Mixing()
    row = torch.tensor([weights], dtype=torch.float64, requires_grad=True)
    found.mixture = Mixture(row, None if active is None else (active,))
    return found


@pytest.mark.parametrize("active", [None, (0, 1), (1,), (2,), (0, 3)])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("recompute", ["nothing", "all"])
def test_fused_branches_are_the_weighted_sum_of_the_branches(active, training, recompute) -> None:
    """Outputs, gradients and running statistics, in float64."""
    plain = choice().double().train(training)
    holder = mixing([w if active is None or k in active else 0 for k, w in enumerate(WEIGHTS)])
    holder.mixture = Mixture(holder.mixture.weights, None if active is None else (active,))
    fused = MixedBranches(copy.deepcopy(plain), holder).train(training)
    use_kernels(fused, "auto", recompute)
    assert [branch is not None for branch in fused.normed] == [True, True, True, False]
    x = torch.randn(3, 4, 5, 5, dtype=torch.float64, requires_grad=True)
    weights = holder.mixture.weights[0]
    taken = range(4) if active is None else active
    expected = torch.stack([weights[k] * plain.branches[k](x) for k in taken]).sum(dim=0)
    found = fused(x)
    torch.testing.assert_close(found, expected)
    direction = torch.randn_like(expected)
    named = [name for name, _ in plain.named_parameters()]

    def gradients(output: Tensor, module: nn.Module) -> list[Tensor]:
        inputs = [x, holder.mixture.weights, *dict(module.named_parameters()).values()]
        grads = torch.autograd.grad(output, inputs, direction, allow_unused=True)
        return [torch.zeros_like(i) if g is None else g for g, i in zip(grads, inputs, strict=True)]

    assert named == [name for name, _ in fused.named_parameters()]
    for one, other in zip(gradients(found, fused), gradients(expected, plain), strict=True):
        torch.testing.assert_close(one, other)
    buffers = dict(plain.named_buffers())
    for name, value in fused.named_buffers():
        if "num_batches" not in name:
            torch.testing.assert_close(value, buffers[name])


def test_embeddings_of_tokens_are_weighted_in_their_own_type() -> None:
    found = Choice({"a": nn.Embedding(5, 3), "b": nn.Embedding(5, 3)})
    found.rows = (0,)
    tokens = torch.tensor([[1, 4, 0]])
    expected = 0.4 * found.branches[0](tokens) + 0.6 * found.branches[1](tokens)
    mixture = MixedBranches(found, mixing([0.4, 0.6]))
    torch.testing.assert_close(mixture(tokens), expected)


def test_maps_keep_the_memory_format_of_the_input() -> None:
    module = MixedBranches(choice(), mixing(WEIGHTS))
    x = torch.randn(2, 4, 5, 5)
    assert module(x).is_contiguous()
    assert module(x).view(2, -1).shape == (2, 100)


def test_a_mixture_of_depths_is_the_weighted_sum_of_the_chain_s_outputs() -> None:
    repeat = Repeat(lambda i: nn.Linear(3, 3), 0, 2)
    repeat.rows = (0,)
    holder, x = mixing([0.5, 0.2, 0.3]), torch.randn(4, 3)
    outputs = [x, repeat.blocks[0](x)]
    outputs.append(repeat.blocks[1](outputs[1]))
    expected = sum(w * y for w, y in zip([0.5, 0.2, 0.3], outputs, strict=True))
    torch.testing.assert_close(MixedRepeat(repeat, holder)(x), expected)
    holder.mixture = Mixture(holder.mixture.weights, ((1,),))
    torch.testing.assert_close(MixedRepeat(repeat, holder)(x), 0.2 * outputs[1])


def test_channels_are_scaled_by_the_weights_of_the_widths_that_have_them() -> None:
    width = Width([1, 3])
    layer = nn.Conv2d(2, width, 1)
    holder, x = mixing([0.25, 0.75]), torch.randn(2, 2, 3, 3)
    found = MixedWidth(layer, {width.decision: 0}, holder)(x)
    scale = torch.tensor([1.0, 0.75, 0.75]).view(3, 1, 1)
    torch.testing.assert_close(found, layer(x) * scale)


def test_a_module_that_is_called_twice_is_replaced_once() -> None:
    shared = choice()
    model = nn.Sequential(shared, nn.ReLU(), shared)
    found = mixed(model, {}, mixing(WEIGHTS))
    assert found[0] is found[2]
    assert isinstance(found[0], MixedBranches)


def test_a_choice_of_any_modules_is_their_sum_weighted_by_a_softmax() -> None:
    """The mixed operator of DARTS, equation 2, written out by hand; gradients too, in float64."""
    torch.manual_seed(0)
    modules = {
        "identity": nn.Identity(),
        "conv": nn.Conv2d(16, 16, 3, padding=1),
        "pool": nn.MaxPool2d(3, stride=1, padding=1),
    }
    space = hwnas.space_of(nn.Sequential(Choice(modules)), torch.zeros(1, 16, 8, 8))
    supernet = space.supernet().double()
    x = torch.randn(2, 16, 8, 8, dtype=torch.float64)
    alphas = torch.tensor([[0.3, -1.2, 0.5]], dtype=torch.float64, requires_grad=True)
    found = supernet(x, Mixture(alphas.softmax(dim=1)))
    (conv,) = (m for m in supernet.modules() if isinstance(m, nn.Conv2d))
    odds = alphas[0].exp() / alphas[0].exp().sum()
    convolved = nn.functional.conv2d(x, conv.weight, conv.bias, padding=1)
    expected = odds[0] * x + odds[1] * convolved + odds[2] * nn.functional.max_pool2d(x, 3, 1, 1)
    torch.testing.assert_close(found, expected)
    for mine, theirs in zip(
        torch.autograd.grad(found.square().sum(), [alphas, conv.weight], retain_graph=True),
        torch.autograd.grad(expected.square().sum(), [alphas, conv.weight]),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)
    assert space.most_likely(Mixture(alphas)).options[0][1] == "pool"
