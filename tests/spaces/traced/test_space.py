"""Spaces that are found in models: choices, operators, networks and supernets."""

from __future__ import annotations

import itertools
import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.brute_force import assert_expected, assert_predicted
from helpers.own_networks import OwnNetwork, own_space
from helpers.tiny import table_of
from torch import nn

from hwnas.architecture import Mixture
from hwnas.budget.cost import CostModel
from hwnas.nn import Build, Choice, Repeat, Value, Width
from hwnas.nn.searchable import Searchable
from hwnas.spaces import build_space
from hwnas.spaces.traced.counting import count
from hwnas.spaces.traced.space import TracedSpace, space_of

EXAMPLE = torch.zeros(1, 1, 9, 7)


@pytest.fixture(scope="module")
def space() -> TracedSpace:
    return own_space()


def all_chosen(space: TracedSpace) -> np.ndarray:
    """The option indices of every architecture, (architectures, choices)."""
    options = itertools.product(*(range(len(choice.options)) for choice in space.choices))
    return np.array(sorted({tuple(space.chosen(space.architecture(list(o)))) for o in options}))


def test_choices_are_named_by_their_attributes_and_say_when_they_matter(space) -> None:
    assert [choice.name for choice in space.choices] == [
        "width",
        "first",
        "stage",
        "kernel",
        "stage.blocks.0.ratio",
        "stage.blocks.1.ratio",
        "last",
        "last.nested.0",
    ]
    stage, last = 2, 6
    assert space.matters[3] == (((stage, (1, 2)),), ((stage, (2,)),))
    assert space.matters[5] == (((stage, (2,)),),)
    assert space.matters[7] == (((last, (2,)),),)
    assert [space.matters[row] for row in (0, 1, stage, last)] == [()] * 4


def test_sizes_are_those_of_the_networks_themselves(space, rng) -> None:
    for _ in range(20):
        architecture = space.sample(rng)
        module = space.module(architecture).eval()
        with torch.no_grad():
            assert space.params_and_macs(architecture) == count(module, [EXAMPLE])


def test_prices_are_those_of_all_networks(space) -> None:
    """Against the sum over the operators of each network, and the expectation over all of them."""
    table = table_of(space)
    chosen = all_chosen(space)
    assert len(chosen) == space.size()
    latencies = [
        sum(
            n * table.latency_ms(spec)
            for row, parts in enumerate(space.options.conditional)
            if all(option[r] in ks for r, ks in parts.literals)
            for spec, n in space._counted(parts.operators).items()
        )
        + sum(n * table.latency_ms(spec) for spec, n in space.fixed_operators().items())
        for option in chosen.tolist()
    ]
    cost = CostModel(space, table)
    assert_predicted(cost, chosen, np.array(latencies))
    assert_expected(cost, chosen, np.array(latencies))


def test_the_network_has_nothing_of_hwnas_and_can_be_pickled(space, rng) -> None:
    module = space.module(space.sample(rng))
    for child in module.modules():
        assert not type(child).__module__.startswith("hwnas")
        assert not any(isinstance(value, Width) for value in vars(child).values())
    copied = pickle.loads(pickle.dumps(module))
    assert torch.equal(copied(EXAMPLE), module(EXAMPLE))


def test_a_network_inherits_what_the_supernet_computes(space, rng) -> None:
    supernet = space.supernet()
    images = torch.randn(4, 1, 9, 7)
    supernet(images, Mixture(torch.rand(space.mask.shape) * space.mask))  # moves the statistics
    for training in (True, False):
        supernet.train(training)
        for _ in range(8):
            architecture = space.sample(rng)
            network = space.network(architecture).train(training)
            network.load_state_dict(supernet.weights_of(architecture))
            outputs = supernet(images, space.one_hot(architecture))
            torch.testing.assert_close(outputs, network(images))


def test_the_user_s_model_is_not_changed_and_computes_its_first_options() -> None:
    torch.manual_seed(0)
    model = OwnNetwork()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = space_of(model, EXAMPLE)
    first = {choice.name: choice.options[0] for choice in found.choices}
    first |= {"width": "6", "stage": "2"}
    network = found.module(found.architecture(first)).eval()
    torch.testing.assert_close(network(EXAMPLE), model.eval()(EXAMPLE))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(not m.rows for m in model.modules() if isinstance(m, Searchable))


def test_equal_modules_at_equal_shapes_are_one_operator() -> None:
    branches = lambda: {"a": nn.Conv2d(4, 4, 3, padding=1), "b": nn.Conv2d(4, 4, 1)}  # noqa: E731
    model = nn.Sequential(*(Choice(branches()) for _ in range(5)))
    found = space_of(model, torch.zeros(1, 4, 8, 8))
    # Those of the first choice read the network's input, which is measured differently.
    assert len(found.all_operators()) == 4
    assert all(spec.name.startswith("Conv2d-") for spec in found.all_operators())


def test_operators_have_the_same_names_in_every_process(space) -> None:
    helpers = Path(__file__).parents[2]
    code = (
        f"import sys; sys.path.insert(0, {str(helpers)!r})\n"
        "from helpers.own_networks import own_space\n"
        "print(own_space().all_operators())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(space.all_operators())


def test_the_description_alone_prices_and_reads_architectures(space, rng) -> None:
    options = json.loads(json.dumps(space.options.model_dump()))
    described = build_space("own", options)
    assert described.options == space.options
    table = table_of(space)
    for _ in range(5):
        architecture = space.sample(rng)
        genotype = json.loads(json.dumps(space.to_genotype(architecture)))
        assert described.from_genotype(genotype) == architecture
        assert CostModel(described, table).latency_ms(architecture) == pytest.approx(
            CostModel(space, table).latency_ms(architecture)
        )
    with pytest.raises(Exception, match="the model that this search space was found in"):
        described.network(space.sample(rng))


def test_a_shared_value_is_one_choice_and_a_shared_module_is_called_twice() -> None:
    value = Value([3, 5], name="kernel")
    shared = Choice({"a": nn.Conv2d(4, 4, 3, padding=1), "b": nn.Conv2d(4, 4, 1)})

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = Build(nn.Conv2d, 4, 4, value, padding="same")
            self.two = Build(nn.Conv2d, 4, 4, kernel_size=value, padding="same")
            self.shared = shared

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.shared(self.two(self.shared(self.one(x))))

    found = space_of(Model(), torch.zeros(1, 4, 8, 8))
    assert [(choice.name, choice.options) for choice in found.choices] == [
        ("kernel", ("3", "5")),
        ("shared", ("a", "b")),
    ]
    assert sum(found.operators(1, 0).values()) == 2
    module = found.module(found.architecture({"kernel": "5", "shared": "b"}))
    assert module.one.kernel_size == module.two.kernel_size == (5, 5)
    assert module.shared.kernel_size == (1, 1)


def test_code_without_choices_may_depend_on_values() -> None:
    class Untraceable(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 1 if x.sum() > 0 else x

    model = nn.Sequential(Untraceable(), Repeat(lambda i: nn.Conv2d(2, 2, 1), 1, 2))
    assert space_of(model, torch.zeros(1, 2, 4, 4)).size() == 2


def test_layer_norm_follows_a_width_exactly() -> None:
    width = Width([4, 8])
    model = nn.Sequential(nn.Linear(5, width), nn.LayerNorm(width), nn.ReLU(), nn.Linear(width, 3))
    found = space_of(model, torch.zeros(1, 5))
    supernet, x = found.supernet().eval(), torch.randn(6, 5)
    for option in ("4", "8"):
        architecture = found.architecture({found.choices[0].name: option})
        network = found.network(architecture).eval()
        torch.testing.assert_close(supernet(x, found.one_hot(architecture)), network(x))


def test_signals_are_measured_behind_channel_mixers_of_their_channels() -> None:
    """A linear layer over the last axis would need a weight for each pair of times."""
    branches = {"a": nn.Conv1d(2, 2, 3, padding=1), "b": nn.Conv1d(2, 2, 1)}
    model = nn.Sequential(nn.Conv1d(1, 2, 1), Choice(branches), nn.Flatten(), nn.Linear(1000, 3))
    found = space_of(model, torch.zeros(1, 1, 500))
    for spec in found.all_operators():
        module, shapes, kind = found.operator_module(spec)
        if kind == "operator" and spec.name.startswith("Conv1d-"):
            assert shapes == [(2, 1, 500)]
            assert module(torch.zeros(3, 2, 1, 500)).shape == (3, 2, 500)


def test_a_model_with_two_inputs_has_a_space() -> None:
    class TwoInputs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.image, self.row = nn.Conv2d(1, 4, 3), nn.Linear(5, 4)
            self.joined = Choice({"small": nn.Linear(8, 2), "large": Deep()})

        def forward(self, image: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
            features = self.image(image).mean((2, 3))
            return self.joined(torch.cat([features, self.row(row)], dim=1))

    class Deep(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))

    inputs = [torch.zeros(1, 1, 6, 6), torch.zeros(1, 5)]
    found = space_of(TwoInputs(), inputs)
    assert found.size() == 2
    for option in ("small", "large"):
        architecture = found.architecture({"joined": option})
        with torch.no_grad():
            expected = count(found.module(architecture).eval(), inputs)
        assert found.params_and_macs(architecture) == expected


def test_sizes_of_other_tensors_are_no_inputs_of_an_operator() -> None:
    class Views(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.choice = Choice({"a": nn.Conv2d(2, 4, 1), "b": nn.Conv2d(2, 4, 3, padding=1)})
            self.head = nn.Linear(4 * 6, 3)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            n, _, height, width = image.shape
            y = self.choice(image).view(n, 4, height * width // 6, 6).sum(2)
            return self.head(y.reshape(image.size(0), -1))

    found = space_of(Views(), torch.zeros(1, 2, 6, 6))
    (head,) = found.fixed_operators()
    module, shapes, kind = found.operator_module(head)
    assert (shapes, kind) == ([(4, 6, 6)], "operator")
    assert module(torch.zeros(5, 4, 6, 6)).shape == (5, 3)
