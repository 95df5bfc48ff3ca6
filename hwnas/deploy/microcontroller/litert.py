"""A quantised program as a file for LiteRT and LiteRT for Microcontrollers (`.tflite`).

Maps are (1, H, W, C) there, and padding is `SAME` or `VALID`. A convolution that begins one pixel
earlier than `SAME` would has zeros appended to its kernel until it does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hwnas.deploy.microcontroller.memory import Plan
from hwnas.deploy.microcontroller.program import Shape, Step, Window
from hwnas.deploy.microcontroller.quantise import QuantisedProgram, Scale, past_the_end
from hwnas.errors import InputError, RuntimeMissingError

MOST_ZEROS = 8
"""Rows or columns of zeros that are appended to a kernel at most."""
FUSED = {"": 0, "relu": 1, "relu6": 3}
"""LiteRT's numbers of the activations that an operator can have."""
VERSIONS = {"CONV_2D": 3, "DEPTHWISE_CONV_2D": 3}
"""Versions of operators that read int8; 2 for the others."""


def flatbuffer(plan: Plan, quantised: QuantisedProgram) -> bytes:
    """The content of the file.

    Raises:
        InputError: for an activation other than relu and relu6, a product, or a padding that
            LiteRT has not.
        RuntimeMissingError: when LiteRT is not installed.
    """
    try:
        import flatbuffers
        from ai_edge_litert import schema_py_generated as schema
    except ImportError:
        raise RuntimeMissingError(
            "LiteRT is not installed", mend="`pip install hwnas[litert]` installs it"
        ) from None
    model = _Model(schema, quantised)
    program = plan.program
    given = program.steps[0].inputs[0] if program.steps else program.output
    model.value(given, program.input_shape)
    for step in program.steps:
        model.add(step)
    graph = schema.SubGraphT(
        tensors=model.tensors,
        inputs=[model.numbers[given]],
        outputs=[model.numbers[program.output]],
        operators=model.operators,
        name="main",
    )
    whole = schema.ModelT(
        version=3,
        operatorCodes=model.codes,
        subgraphs=[graph],
        buffers=model.buffers,
        description="made by hwnas",
    )
    builder = flatbuffers.Builder(1024)
    builder.Finish(whole.Pack(builder), b"TFL3")
    return bytes(builder.Output())


@dataclass
class _Model:
    """The parts of the file while operators are added.

    Attributes:
        schema: LiteRT's module of the file's tables.
        quantised: the program.
        numbers: number of the tensor of each value.
        shapes: of each value.
    """

    schema: Any
    quantised: QuantisedProgram
    numbers: dict[int, int] = field(default_factory=dict)
    shapes: dict[int, Shape] = field(default_factory=dict)
    tensors: list[Any] = field(default_factory=list)
    buffers: list[Any] = field(default_factory=list)
    operators: list[Any] = field(default_factory=list)
    codes: list[Any] = field(default_factory=list)
    names: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.buffers.append(self.schema.BufferT(data=[]))

    def value(self, value: int, shape: Shape) -> None:
        """Add the tensor of a value."""
        channels, height, width = shape
        self.shapes[value] = shape
        sizes = (1, height, width, channels)
        self.numbers[value] = self._tensor(sizes, "INT8", [self.quantised.scales[value]], 0)

    def add(self, step: Step) -> None:
        """Add an operator and the tensor that it writes."""
        for value, shape in zip(step.inputs, step.shapes, strict=True):
            if self.shapes[value] != shape:
                raise _refused(step, "a map that is read in another shape")
        self.value(step.output, step.shape)
        if step.kind == "conv":
            self._convolution(step)
            return
        fused = self._fused(step)
        if step.kind in ("max_pool", "avg_pool"):
            self._pool(step, fused)
        elif step.kind == "add":
            options = self.schema.AddOptionsT(fusedActivationFunction=fused)
            self._operator("ADD", step, [], "AddOptions", options)
        elif step.kind == "concat":
            options = self.schema.ConcatenationOptionsT(axis=3, fusedActivationFunction=fused)
            self._operator("CONCATENATION", step, [], "ConcatenationOptions", options)
        elif step.kind == "map":
            self._operator({"relu": "RELU", "relu6": "RELU6"}[step.activation], step, [], "", None)
        else:
            raise _refused(step, "a product")

    def _fused(self, step: Step) -> int:
        if step.activation not in FUSED:
            raise _refused(step, step.activation)
        return FUSED[step.activation]

    def _convolution(self, step: Step) -> None:
        weights, window = self.quantised.weights[step.output], step.window
        assert window is not None
        padding, (rows, columns) = _padding(step, window)
        extended = ((0, 0), (0, 0), (0, rows), (0, columns))
        weight = np.pad(weights.weight, extended)
        channels = step.shapes[0][0]
        is_depthwise = step.groups == channels and channels > 1
        kind = "DEPTHWISE_CONV_2D" if is_depthwise else "CONV_2D"
        # (1, height, width, c_out), or (c_out, height, width, c_in / groups).
        turned = weight.transpose(1, 2, 3, 0) if is_depthwise else weight.transpose(0, 2, 3, 1)
        scales = [Scale(float(scale), 0) for scale in weights.scales]
        given = self.quantised.scales[step.inputs[0]]
        of_bias = [Scale(given.scale * scale.scale, 0) for scale in scales]
        constants = [
            self._tensor(turned.shape, "INT8", scales, 3 if is_depthwise else 0, turned),
            self._tensor(weights.bias.shape, "INT32", of_bias, 0, weights.bias),
        ]
        settings = {
            "padding": getattr(self.schema.Padding, padding),
            "strideH": window.stride[0],
            "strideW": window.stride[1],
            "dilationHFactor": window.dilation[0],
            "dilationWFactor": window.dilation[1],
            "fusedActivationFunction": self._fused(step),
        }
        if is_depthwise:
            multiplier = step.shape[0] // channels
            options = self.schema.DepthwiseConv2DOptionsT(depthMultiplier=multiplier, **settings)
            self._operator(kind, step, constants, "DepthwiseConv2DOptions", options)
        else:
            options = self.schema.Conv2DOptionsT(**settings)
            self._operator(kind, step, constants, "Conv2DOptions", options)

    def _pool(self, step: Step, fused: int) -> None:
        assert step.window is not None
        padding, zeros = _padding(step, step.window)
        if zeros != (0, 0):
            raise _refused(step, "a pool that begins elsewhere than LiteRT's")
        options = self.schema.Pool2DOptionsT(
            padding=getattr(self.schema.Padding, padding),
            strideH=step.window.stride[0],
            strideW=step.window.stride[1],
            filterHeight=step.window.size[0],
            filterWidth=step.window.size[1],
            fusedActivationFunction=fused,
        )
        name = "MAX_POOL_2D" if step.kind == "max_pool" else "AVERAGE_POOL_2D"
        self._operator(name, step, [], "Pool2DOptions", options)

    def _operator(
        self, name: str, step: Step, constants: Sequence[int], options_name: str, options: Any
    ) -> None:
        if name not in self.names:
            self.names.append(name)
            code = getattr(self.schema.BuiltinOperator, name)
            version = VERSIONS.get(name, 2)
            self.codes.append(
                self.schema.OperatorCodeT(
                    deprecatedBuiltinCode=code, builtinCode=code, version=version
                )
            )
        kind = getattr(self.schema.BuiltinOptions, options_name) if options_name else 0
        self.operators.append(
            self.schema.OperatorT(
                opcodeIndex=self.names.index(name),
                inputs=[*(self.numbers[value] for value in step.inputs), *constants],
                outputs=[self.numbers[step.output]],
                builtinOptionsType=kind,
                builtinOptions=options,
            )
        )

    def _tensor(
        self,
        shape: Sequence[int],
        dtype: str,
        scales: Sequence[Scale],
        dimension: int,
        data: np.ndarray | None = None,
    ) -> int:
        """Add a tensor; its number."""
        quantisation = self.schema.QuantizationParametersT(
            scale=[scale.scale for scale in scales],
            zeroPoint=[scale.zero for scale in scales],
            quantizedDimension=dimension,
        )
        buffer = 0
        if data is not None:
            buffer = len(self.buffers)
            little = np.ascontiguousarray(data).astype(data.dtype.newbyteorder("<"))
            self.buffers.append(
                self.schema.BufferT(data=np.frombuffer(little.tobytes(), dtype=np.uint8))
            )
        self.tensors.append(
            self.schema.TensorT(
                shape=[int(size) for size in shape],
                type=getattr(self.schema.TensorType, dtype),
                buffer=buffer,
                name=f"tensor{len(self.tensors)}",
                quantization=quantisation,
            )
        )
        return len(self.tensors) - 1


def _refused(step: Step, what: str) -> InputError:
    return InputError(
        "the network cannot be written for LiteRT",
        where=step.source,
        expected="convolutions, pools, sums and concatenations with relu or relu6",
        actual=what,
        mend="use the C program, or activations that LiteRT has",
    )


def _padding(step: Step, window: Window) -> tuple[str, tuple[int, int]]:
    """The name of LiteRT's padding, and how many zeros the kernel needs at its ends.

    Raises:
        InputError: when there is none.
    """
    may_grow = step.kind == "conv"
    zeros = [_zeros_for_same(step, window, axis, may_grow) for axis in (0, 1)]
    if zeros[0] is not None and zeros[1] is not None:
        return "SAME", (zeros[0], zeros[1])
    if window.start == (0, 0) and max(past_the_end(step)) <= 0:
        return "VALID", (0, 0)
    raise _refused(step, f"padding by {window.start} before the map")


def _zeros_for_same(step: Step, window: Window, axis: int, may_grow: bool) -> int | None:
    """Zeros at the end of a kernel with which `SAME` begins where the window does; None if none."""
    side, outputs = step.shapes[0][1 + axis], step.shape[1 + axis]
    stride, dilation = window.stride[axis], window.dilation[axis]
    if outputs != -(-side // stride):
        return None
    for zeros in range(MOST_ZEROS + 1 if may_grow else 1):
        reach = (window.size[axis] + zeros - 1) * dilation + 1
        if max((outputs - 1) * stride + reach - side, 0) // 2 == window.start[axis]:
            return zeros
    return None
