"""What is refused in a model, with the name of the choice."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from hwnas.errors import InputError
from hwnas.nn import Build, Choice, Repeat, Value, Width
from hwnas.spaces.traced.space import space_of

EXAMPLE = torch.zeros(1, 4, 8, 8)


def conv(c_in: int = 4, c_out: int = 4, kernel: int = 1) -> nn.Module:
    return nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2)


class Model(nn.Module):
    """Holds modules by name and calls some of them one after the other."""

    def __init__(self, called: list[str], **modules: object) -> None:
        super().__init__()
        self.called = called
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for name in self.called:
            x = getattr(self, name)(x)
        return x


class ByValue(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.choice = Choice({"a": conv(), "b": conv(kernel=3)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.choice(x) if x.sum() > 0 else x


def pair(name: str | None = None) -> Choice:
    return Choice({"a": conv(), "b": conv(kernel=3)}, name=name)


CASES: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "no choices": (lambda: nn.Sequential(conv()), "the model has no choices"),
    "one option": (
        lambda: Model(["layer"], layer=Choice({"a": conv()})),
        "layer: a choice needs at least two different options",
    ),
    "one depth": (
        lambda: Model(["stage"], stage=Repeat(lambda i: conv(), 2, 2)),
        "stage: a choice needs at least two",
    ),
    "one name twice": (
        lambda: Model(["one", "two"], one=pair("x"), two=pair("x")),
        "x: two choices have this name",
    ),
    "a name that is a path": (
        lambda: Model(["one", "two"], one=pair(), two=pair("one")),
        "one: two choices have this name",
    ),
    "never called": (
        lambda: Model(["one"], one=pair(), two=pair()),
        "two: this choice is never called",
    ),
    "a value nobody uses": (
        lambda: Model(["one"], one=pair(), kernel=Value([3, 5])),
        "kernel: no part of the model was made with this value",
    ),
    "shapes that differ": (
        lambda: Model(["layer"], layer=Choice({"small": conv(), "large": conv(4, 6)})),
        "layer: the outputs .* not tensors of the same shape.*small: .4, 8, 8., large: .6, 8, 8.",
    ),
    "shapes that differ between depths": (
        lambda: Model(["stage"], stage=Repeat(lambda i: conv(4 + i, 5 + i), 1, 2)),
        "stage: the outputs .* 1 blocks: .5, 8, 8., 2 blocks: .6, 8, 8.",
    ),
    "control flow by values": (
        ByValue,
        "the model: ByValue: this module contains choices and cannot be traced by torch.fx",
    ),
    "a part that does not run": (
        lambda: Model(["layer"], layer=Choice({"a": conv(), "b": conv(5)})),
        "layer, option b: this part of the model does not run on inputs .2, 4, 8, 8.",
    ),
    "a width that a layer does not follow": (
        lambda: Model(["a", "b"], a=conv(4, Width([4, 8], name="channels")), b=conv(8)),
        "channels 4: .*does not run.*with the same Width",
    ),
    "groups that do not follow": (
        lambda: Model(["a"], a=nn.Conv2d(4, Width([4, 8]), 1, groups=2)),
        "a: a grouped convolution cannot follow a Width",
    ),
    "no tensor": (
        lambda: Model(["a"], a=Choice({"lstm": nn.LSTM(8, 8), "id": nn.Identity()})),
        "a, option lstm",
    ),
    "nothing that costs": (
        lambda: Model(["a"], a=Choice({"id": nn.Identity(), "drop": nn.Dropout()})),
        "a: no choice changes what the model computes",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_refused_in_one_line_that_names_the_choice(case) -> None:
    make, message = CASES[case]
    model = make()
    example = torch.zeros(1, 5, 8) if case == "no tensor" else EXAMPLE
    with pytest.raises(InputError, match=message) as refusal:
        space_of(model, example)
    assert "\n" not in str(refusal.value)


def test_constructors_refuse_what_cannot_be_a_choice() -> None:
    with pytest.raises(InputError, match="Width x: not a number of channels.*got 0"):
        Width([0, 8], name="x")
    with pytest.raises(InputError, match="Build.Conv2d.: nothing to decide"):
        Build(nn.Conv2d, 4, 4, 3)
    with pytest.raises(InputError, match="Repeat depth: not a range of depths.*3 and 2"):
        Repeat(lambda i: conv(), 3, 2, name="depth")


@pytest.mark.parametrize(
    "model,example", [(conv, EXAMPLE), (conv(), "images"), (conv(), torch.zeros(0, 4, 8, 8))]
)
def test_what_is_no_model_or_no_example_is_refused(model, example) -> None:
    with pytest.raises(InputError, match="not a model|not a batch of inputs"):
        space_of(model, example)
