"""Files for LiteRT, run by its interpreter and by that of LiteRT for Microcontrollers."""

from __future__ import annotations

import re

import numpy as np
import pytest
from helpers.integer_programs import quantised, random_network, samples_of
from helpers.tiny import tiny_space

from hwnas.deploy.microcontroller.interpreter import outputs
from hwnas.deploy.microcontroller.litert import flatbuffer
from hwnas.errors import InputError

interpreters = pytest.importorskip("ai_edge_litert.interpreter")
micro = pytest.importorskip("tflite_micro.python.tflite_micro.runtime")

STAGES = [
    {
        "operator": ["conv", "separable"],
        "layers": [1, 2],
        "kernel": [3, 5],
        "channels": 8,
        "stride": 2,
        "activation": ["relu6", "none"],
    },
    {"channels": 12, "layers": 2, "residual": [False, True], "dilation": [1, 2]},
    {"operator": "dense", "channels": 5},
]
SIZES = {
    "images": {"input_channels": 3, "height": 16, "width": 12},
    "signals": {"input_channels": 6, "height": 1, "width": 100},
}
SPACES = {name: tiny_space("macro", stages=STAGES, **sizes) for name, sizes in SIZES.items()}


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("seed", [0, *(pytest.param(s, marks=pytest.mark.slow) for s in (1, 2))])
def test_interpreters_compute_what_the_program_does_in_the_predicted_memory(
    name, seed, capfd
) -> None:
    network, samples = random_network(SPACES[name], seed), samples_of(SPACES[name])
    planned, program = quantised(network, samples)
    model = flatbuffer(planned, program)
    expected = outputs(program, samples)
    found = by_litert(model, program.input.quantised(samples))
    # LiteRT rounds its products twice, so that numbers may differ by a step in each operator.
    steps = np.abs(program.result.real(found) - expected) / program.result.scale
    assert np.median(steps) <= 1 and steps.max() <= 4
    numbers, arena = by_micro(model, program.input.quantised(samples)[0], capfd)
    assert np.abs(numbers.astype(int) - found[0].astype(int)).max() <= 2
    assert planned.bytes == pytest.approx(arena, rel=0.02)


def by_litert(model: bytes, inputs: np.ndarray) -> np.ndarray:
    """Int8 outputs (samples, outputs) of LiteRT's interpreter."""
    reference = interpreters.OpResolverType.BUILTIN_REF
    interpreter = interpreters.Interpreter(
        model_content=model, experimental_op_resolver_type=reference
    )
    interpreter.allocate_tensors()
    (given,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
    rows = []
    for sample in inputs:
        interpreter.set_tensor(given["index"], sample.transpose(1, 2, 0)[None])
        interpreter.invoke()
        rows.append(interpreter.get_tensor(result["index"]).ravel())
    return np.array(rows)


def by_micro(model: bytes, sample: np.ndarray, capfd) -> tuple[np.ndarray, int]:
    """Int8 outputs of the interpreter for microcontrollers, and the bytes of its activations."""
    interpreter = micro.Interpreter.from_bytes(model, arena_size=2**20)
    interpreter.set_input(sample.transpose(1, 2, 0)[None], 0)
    interpreter.invoke()
    interpreter.print_allocations()
    printed = capfd.readouterr()
    lines = printed.out + printed.err
    found = re.search(r"head.*?(\d+) bytes", lines)
    assert found is not None, lines
    return interpreter.get_output(0).ravel(), int(found[1])


@pytest.mark.parametrize("activation", ["hswish", "sigmoid"])
def test_what_litert_cannot_fuse_is_refused(activation) -> None:
    space = tiny_space("macro", stages=[{"channels": 4, "activation": activation}])
    planned, program = quantised(random_network(space, 0), samples_of(space))
    with pytest.raises(InputError, match=f"LiteRT.*{activation}"):
        flatbuffer(planned, program)
