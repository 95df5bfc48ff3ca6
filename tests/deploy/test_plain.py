"""A trained network without hwnas: same outputs, torch's own parts, usable where hwnas is not."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers.exported import network_for
from helpers.tiny import tiny_space
from onnxruntime import InferenceSession
from torch import nn

from hwnas.architecture import Architecture
from hwnas.deploy.export import export_network
from hwnas.deploy.plain import plain_module
from hwnas.errors import InputError
from hwnas.spaces import SPACES
from hwnas.spaces.networks import Network
from hwnas.tasks import TASKS

TOKENS = {"vocabulary": 11, "height": 1, "width": 8}
SIZES = {"dense": {}, "upsampled": {"height": 8, "width": 8}}
READING = [
    (name, options)
    for name, space in sorted(SPACES.items())
    for options in ({}, *([TOKENS] if space.reads_tokens else []))
]
"""Every space, with each kind of input that it reads."""
CASES = READING + [
    (name, {"head": head, **SIZES[head]})
    for name, space in sorted(SPACES.items())
    for head in space.heads
    if head in SIZES
]
"""These, and every space with each of its other heads."""


def moved_statistics(network: Network, inputs: torch.Tensor) -> Network:
    """The network after some steps of training mode, as batch norms of a trained one are."""
    network.drop_training_parts()
    with torch.no_grad():
        for _ in range(3):
            network.train()(inputs)
    return network.eval()


def example(name: str, options: dict, seed: int = 0) -> tuple[Network, torch.Tensor]:
    torch.manual_seed(seed)
    space = tiny_space(name, **options)
    architecture: Architecture = space.sample(np.random.default_rng(seed))
    shape = space.options.input_shape
    inputs = torch.randint(0, 11, (4, *shape)) if len(shape) == 1 else torch.randn(4, *shape)
    return moved_statistics(space.network(architecture), inputs), inputs


def onnx_outputs(network: Network, inputs: torch.Tensor) -> np.ndarray:
    model = export_network(network, tuple(inputs.shape[1:]))
    session = InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (outputs,) = session.run(None, {"images": inputs.numpy()})
    return outputs


@pytest.mark.parametrize("name, options", READING, ids=str)
def test_the_module_of_every_space_computes_what_its_onnx_file_does(name, options) -> None:
    network, inputs = example(name, options)
    module = plain_module(network)
    with torch.no_grad():
        found = module(inputs).numpy()
    np.testing.assert_allclose(found, onnx_outputs(network, inputs), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("task", sorted(TASKS))
def test_the_module_of_every_task_computes_what_its_onnx_file_does(task) -> None:
    found, network = network_for(task)
    inputs = found.dataset.normalise(found.dataset.test.inputs)
    with torch.no_grad():
        outputs = plain_module(network)(inputs).numpy()
    np.testing.assert_allclose(outputs, onnx_outputs(network, inputs), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name, options", CASES, ids=str)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_module_is_made_of_torch_alone_and_keeps_every_weight(name, options, seed) -> None:
    network, inputs = example(name, options, seed)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    module = plain_module(network)
    parts = [type(part).__module__ for part in module.modules() if part is not module]
    assert all(name.startswith("torch.") for name in parts)
    for node in module.graph.nodes:
        if node.op == "call_function":
            assert node.target.__module__.split(".")[0] in ("torch", "_operator", "builtins"), node
    found = module.state_dict()
    assert found.keys() == before.keys()
    module.train()(inputs).sum().backward()  # ... a copy of its own, whose
    assert all(torch.equal(network.state_dict()[key], before[key]) for key in before)
    moving = [key for key in before if key.endswith("running_mean")]
    assert not any(torch.equal(found[key], before[key]) for key in moving)  # ... batch norms learn


@pytest.mark.parametrize("name", ["mbconv", "rnn"])
def test_a_pickle_of_the_module_loads_where_hwnas_cannot_be_imported(name, tmp_path) -> None:
    network, inputs = example(name, {})
    module = plain_module(network)
    data = pickle.dumps(module)
    assert b"hwnas" not in data
    (tmp_path / "module.pickle").write_bytes(data)
    np.save(tmp_path / "inputs.npy", inputs.numpy())
    code = (
        "import sys, pickle, numpy, torch\n"
        "sys.modules['hwnas'] = None\n"
        "module = pickle.load(open('module.pickle', 'rb'))\n"
        "inputs = torch.from_numpy(numpy.load('inputs.npy'))\n"
        "numpy.save('outputs.npy', module(inputs).detach().numpy())\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    outputs = np.load(tmp_path / "outputs.npy")
    np.testing.assert_allclose(outputs, module(inputs).detach().numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name, options", READING, ids=str)
def test_the_module_can_be_compiled_as_one_graph(name, options) -> None:
    network, inputs = example(name, options)
    module = plain_module(network)
    compiled = torch.compile(module, backend="eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(inputs), module(inputs))
    torch._dynamo.reset()


def test_a_network_that_cannot_be_traced_is_refused_in_one_line() -> None:
    class Undecided(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(InputError, match=r"^Undecided: torch.fx cannot trace") as caught:
        plain_module(Undecided())
    assert "\n" not in str(caught.value)
