"""The definition of the mixed operator against PyTorch modules, and its edge cases."""

from __future__ import annotations

import pytest
import torch
from helpers.candidates import candidates_of

from hwnas import kernels


def mixed_by_modules(modules, x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The weighted sum of the modules' outputs; `none`, the first, is zero."""
    return sum(w * m(x) for w, m in zip(weights[1:], modules[1:], strict=True))


CASES = [
    ("darts", 16, (8, 8), 1),
    ("darts", 4, (9, 7), 2),
    ("darts", 6, (5, 6), 2),
    ("nasbench201", 16, (8, 8), 1),
    ("nasbench201", 5, (7, 3), 1),
]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("space,channels,size,stride", CASES)
def test_values_gradients_and_statistics_agree_with_modules(
    space, channels, size, stride, training
) -> None:
    torch.manual_seed(0)
    modules, described = candidates_of(space, channels, size, stride, torch.float64)
    x = torch.randn(3, channels, *size, dtype=torch.float64)
    weights = torch.softmax(torch.randn(len(modules), dtype=torch.float64), dim=0)
    for module in modules:
        module.train(training)
    results = []
    initial = [{k: v.clone() for k, v in m.state_dict().items()} for m in modules]
    for by_kernel in (True, False):
        for module, state in zip(modules, initial, strict=True):
            module.load_state_dict(state)
            module.zero_grad()
        a, w = x.clone().requires_grad_(), weights.clone().requires_grad_()
        if by_kernel:
            out = kernels.mixed_op(a, w, described, stride=stride, training=training, impl="torch")
        else:
            out = mixed_by_modules(modules, a, w)
        out.square().sum().backward()
        parameters = [p.grad.clone() for m in modules for p in m.parameters()]
        statistics = [
            b.clone() for m in modules for n, b in m.named_buffers() if "num_batches" not in n
        ]
        w_grad = w.grad.clone()
        results.append([out.detach(), a.grad, w_grad, *parameters, *statistics])
    for mine, expected in zip(*results, strict=True):
        torch.testing.assert_close(mine, expected)


def test_gradient_of_the_mixing_weights_agrees_with_finite_differences() -> None:
    torch.manual_seed(0)
    modules, described = candidates_of("darts", 4, (6, 6), 1, torch.float64)
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(len(modules), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda w: kernels.mixed_op(x, w, described, impl="torch"), weights
    )


@pytest.mark.parametrize("impl", ["torch", "auto"])
def test_output_is_channels_last_for_any_strides(impl) -> None:
    _, described = candidates_of("darts", 4, (8, 8), 1)
    x = torch.randn(2, 4, 8, 8).transpose(2, 3)
    out = kernels.mixed_op(x, torch.rand(8), described, impl=impl)
    assert out.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("impl", ["torch", "auto"])
def test_inactive_candidates_are_not_run(impl) -> None:
    _, described = candidates_of("darts", 4, (8, 8), 1)
    poisoned = [
        kernels.Candidate(c.name, {k: torch.full_like(v, torch.nan) for k, v in c.tensors.items()
                                   if v.dtype.is_floating_point})
        if c.name.startswith("dil") else c
        for c in described
    ]  # fmt: skip
    weights = torch.rand(8, requires_grad=True)
    x = torch.randn(2, 4, 8, 8)
    out = kernels.mixed_op(x, weights, poisoned, active=(1, 3, 4), impl=impl)
    assert torch.isfinite(out).all()
    out.sum().backward()
    assert (weights.grad[[0, 2, 5, 6, 7]] == 0).all()


@pytest.mark.parametrize("impl", ["torch", "auto"])
@pytest.mark.parametrize("stride", [1, 2])
def test_without_active_candidates_the_output_is_zero(stride, impl) -> None:
    _, described = candidates_of("darts", 4, (7, 8), stride)
    x = torch.randn(2, 4, 7, 8)
    out = kernels.mixed_op(x, torch.rand(8), described, stride=stride, active=(0,), impl=impl)
    assert out.shape == (2, 4, -(-7 // stride), 8 // stride)
    assert (out == 0).all()


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"impl": "magic"}, "impl must be one of .*, got 'magic'"),
        ({"recompute": "some"}, "recompute must be one of .*, got 'some'"),
        ({"storage": "half"}, "storage must be one of exact, bfloat16, got 'half'"),
        ({"stride": 3}, "stride of an edge must be 1 or 2, got 3"),
        ({"mixing_weights": torch.ones(7)}, r"must have shape \(1, 8\), got \(1, 7\)"),
        (
            {"mixing_weights": torch.ones(1), "candidates": [kernels.Candidate("no_such_op", {})]},
            "unknown operator 'no_such_op'",
        ),
    ],
)
def test_wrong_arguments_are_refused(changed, message) -> None:
    _, described = candidates_of("darts", 4, (8, 8), 1)
    arguments = {"mixing_weights": torch.rand(8), "candidates": described} | changed
    with pytest.raises(ValueError, match=message):
        kernels.mixed_op(torch.randn(2, 4, 8, 8), **arguments)
