"""A quantised program as plain C: constant arrays, one arena, and the operators of `runtime.c`.

`model.c` needs no library and no heap. The caller writes int8 inputs to `model_input()`, calls
`model_run()`, and reads int8 outputs from what it returns; `model.h` states the scales.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from importlib import resources

import numpy as np

from hwnas.deploy.microcontroller.memory import Plan
from hwnas.deploy.microcontroller.program import Program, Step
from hwnas.deploy.microcontroller.quantise import FRACTION, HIGH, LOW, QuantisedProgram, Scale
from hwnas.errors import InputError

MAX_NUMBER = 2**15 - 1
"""The largest size that a step can state."""
STEP_BYTES = 76
"""Bytes of one `step_t` where a pointer has 32 bits."""
CODE_BYTES = 1200
"""Bytes of the functions of `model.c`: 1,136 for a Cortex-M4, 1,172 for a Cortex-M0+, rounded."""
KINDS = ("CONV", "MAX_POOL", "AVG_POOL", "ADD", "MUL", "MAP")
OFFSETS = ("in", "second", "out")
"""Where the inputs and the output of a step are in the arena."""
FIELDS = (
    *("kind", "c_in", "h_in", "w_in", "c_out", "h_out", "w_out", "groups", "by_channel"),
    *("size_h", "size_w", "stride_h", "stride_w"),
    *("start_h", "start_w", "dilation_h", "dilation_w"),
    *("zero_in", "zero_second", "zero_out", "low", "high"),
)
"""The further numbers of a step, in the order of `step_t`; they have 16 bits."""


def flash_bytes(program: Program) -> int:
    """Bytes of constants and code that the C program of a network takes.

    A convolution has one byte for each weight, and 9 for each output channel: bias, multiplier and
    shift. An activation without a clamp has a table of 256.
    """
    return CODE_BYTES + sum(map(step_bytes, program.steps))


def step_bytes(step: Step) -> int:
    """Bytes of constants that one operator takes."""
    constants = STEP_BYTES
    if step.weight is not None:
        constants += step.weight.numel() + 9 * step.shape[0]
    elif step.kind == "add":
        constants += 8
    elif step.kind == "mul":
        constants += 4
    elif step.kind == "concat":
        constants = STEP_BYTES * len(step.inputs)
    if has_table(step):
        constants += 256
    return constants


def has_table(step: Step) -> bool:
    """Whether a step looks its activation up in a table."""
    return step.kind == "map" or step.activation not in ("", "relu", "relu6")


def header(plan: Plan, quantised: QuantisedProgram) -> str:
    """The text of `model.h`."""
    given, result, program = quantised.input, quantised.result, plan.program
    channels, height, width = program.input_shape
    return f"""\
/* An int8 network made by hwnas. */
#ifndef MODEL_H
#define MODEL_H
#include <stdint.h>

/* A real number is scale * (q - zero). The input is normalised as in training. */
#define MODEL_INPUTS {channels * height * width} /* {channels} x {height} x {width} */
#define MODEL_INPUT_SCALE {given.scale!r}f
#define MODEL_INPUT_ZERO {given.zero}
#define MODEL_OUTPUTS {program.sizes[program.output]}
#define MODEL_OUTPUT_SCALE {result.scale!r}f
#define MODEL_OUTPUT_ZERO {result.zero}
#define MODEL_ARENA_BYTES {plan.bytes}

/* Where the inputs are written before each call of model_run. */
int8_t *model_input(void);
/* Computes the outputs, which stay until the next input is written. */
const int8_t *model_run(void);
#endif
"""


def source(plan: Plan, quantised: QuantisedProgram) -> str:
    """The text of `model.c`."""
    constants: list[str] = []
    rows = [
        row
        for number, step in enumerate(plan.program.steps)
        for row in _rows(number, step, plan, quantised, constants)
    ]
    runtime = (resources.files("hwnas.deploy.microcontroller") / "runtime.c").read_text("utf-8")
    steps = ",\n".join(f"    {{{row}}}" for row in rows)
    given = plan.program.steps[0].inputs[0] if plan.program.steps else plan.program.output
    lines = "\n".join(constants)
    return f"""\
#include "model.h"

enum {{ {", ".join(KINDS)}, FRACTION = {FRACTION} }};

typedef struct {{
    int32_t {", ".join(OFFSETS)};
    int16_t {", ".join(FIELDS)};
    const int8_t *weights;
    const int32_t *bias, *multipliers;
    const int8_t *shifts, *table;
}} step_t;

{lines}

static const step_t steps[{len(rows)}] = {{
{steps}
}};

static int8_t arena[MODEL_ARENA_BYTES];

{runtime}
int8_t *model_input(void)
{{
    return arena + {plan.offsets[given]};
}}

const int8_t *model_run(void)
{{
    run_steps(steps, {len(rows)}, arena);
    return arena + {plan.offsets[plan.program.output]};
}}
"""


def _rows(
    number: int, step: Step, plan: Plan, quantised: QuantisedProgram, constants: list[str]
) -> Iterator[str]:
    """The `step_t` of an operator, and those of each part of a concatenation.

    What they point to is appended to the constants.
    """
    pointers = dict.fromkeys(("weights", "bias", "multipliers", "shifts", "table"), "0")

    def constant(name: str, values: np.ndarray) -> None:
        pointers[name] = f"{name}{number}"
        constants.append(_array(pointers[name], values))

    given = [quantised.scales[value] for value in step.inputs]
    scale = quantised.scales[step.output]
    if step.kind == "conv":
        weights = quantised.weights[step.output]
        constant("weights", weights.weight)
        constant("bias", weights.bias)
        constant("multipliers", weights.multipliers)
        constant("shifts", weights.shifts)
    elif step.kind in ("add", "mul"):
        written = quantised.written.get(step.output, scale)
        constant("multipliers", factors(step.kind, given, written))
    if (table := quantised.table(step)) is not None:
        constant("table", table)
    texts = ", ".join(pointers.values())
    if step.kind == "concat":
        offset = plan.offsets[step.output]
        for value, shape in zip(step.inputs, step.shapes, strict=True):
            fields: dict[str, int | str] = {"kind": "MAP", "in": plan.offsets[value], "out": offset}
            fields |= dict(zip(("c_in", "h_in", "w_in"), shape, strict=True))
            yield f"{_numbers(fields)}, {texts}"
            offset += int(np.prod(shape))
        return
    yield f"{_numbers(_fields(step, plan, quantised))}, {texts}"


def _fields(step: Step, plan: Plan, quantised: QuantisedProgram) -> dict[str, int | str]:
    """The numbers of an operator that are not 0."""
    fields: dict[str, int | str] = {
        "kind": step.kind.upper(),
        "in": plan.offsets[step.inputs[0]],
        "out": plan.offsets[step.output],
        "groups": step.groups,
    }
    fields |= dict(zip(("c_in", "h_in", "w_in"), step.shapes[0], strict=True))
    fields |= dict(zip(("c_out", "h_out", "w_out"), step.shape, strict=True))
    if step.window is not None:
        window = step.window
        for name in ("size", "stride", "start", "dilation"):
            fields[f"{name}_h"], fields[f"{name}_w"] = getattr(window, name)
    fields["zero_in"] = quantised.scales[step.inputs[0]].zero
    if len(step.inputs) == 2:
        fields["second"] = plan.offsets[step.inputs[1]]
        fields["zero_second"] = quantised.scales[step.inputs[1]].zero
        fields["by_channel"] = int(step.shapes[1] != step.shape)
    if has_table(step):
        written = quantised.written[step.output]
        return fields | {"zero_out": written.zero, "low": LOW, "high": HIGH}
    low, high = quantised.limits(step)
    return fields | {"zero_out": quantised.scales[step.output].zero, "low": low, "high": high}


def factors(kind: str, given: list[Scale], written: Scale) -> np.ndarray:
    """What the inputs of a sum or product are multiplied by, with `FRACTION` bits."""
    if kind == "add":
        exact = [one.scale / written.scale for one in given]
    else:
        exact = [given[0].scale * given[1].scale / written.scale]
    found: np.ndarray = np.clip(np.round(np.array(exact) * 2**FRACTION), 0, 2**31 - 1)
    return found.astype(np.int32)


def _numbers(fields: Mapping[str, int | str]) -> str:
    for name in FIELDS:
        value = fields.get(name, 0)
        if isinstance(value, int) and abs(value) > MAX_NUMBER:
            raise InputError(
                "a size is too large for the C program",
                where=name,
                expected=f"at most {MAX_NUMBER}",
                actual=value,
            )
    return ", ".join(str(fields.get(name, 0)) for name in (*OFFSETS, *FIELDS))


def _array(name: str, values: np.ndarray) -> str:
    """A constant array, in lines of at most 20 numbers."""
    ctype = {"int8": "int8_t", "int32": "int32_t"}[values.dtype.name]
    flat = [str(value) for value in values.ravel().tolist()]
    lines = ",\n    ".join(", ".join(part) for part in _chunks(flat, 20))
    return f"static const {ctype} {name}[{len(flat)}] = {{\n    {lines}\n}};"


def _chunks(items: list[str], size: int) -> Iterable[list[str]]:
    return (items[begin : begin + size] for begin in range(0, len(items), size))
