"""ncnn on CPUs: models that pnnx converts from ONNX, in float32.

ncnn runs one sample at a time: an inference of a batch is one run for each sample.
"""

from __future__ import annotations

import hashlib
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from hwnas.errors import InputError, printable
from hwnas.latency_tables.devices import cpu_name, import_library, require_library
from hwnas.latency_tables.runtimes.base import Infer, Model, OnnxModelRuntime
from hwnas.latency_tables.runtimes.onnx import OnnxRuntimeCpu

if TYPE_CHECKING:
    import numpy as np

CONVERSION_S = 300
"""Seconds that the conversion of a model may take."""
KEPT = 64
"""Conversions that are kept, since a network is prepared anew for every session."""
NO_WORK = ("Input", "Split")
"""Layers that compute nothing."""
OFF = (
    "use_bf16_storage",
    "use_fp16_arithmetic",
    "use_fp16_packed",
    "use_fp16_storage",
    "use_int8_inference",
    "use_vulkan_compute",
)
"""Options that are switched off, so that weights and sums are float32."""


@dataclass(frozen=True)
class _Converted:
    """A model in ncnn's format.

    Attributes:
        layers: the text that lists its layers.
        weights: their weights.
        inputs, outputs: names in the ONNX graph, in the order of `in0`, `out0` and so on.
    """

    layers: str
    weights: bytes
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def kinds(self) -> list[str]:
        """The type of each layer."""
        return [line.split()[0] for line in self.layers.splitlines()[2:] if line.strip()]


class NcnnCpu(OnnxModelRuntime):
    """ncnn on a CPU; pnnx converts a model for the shapes of its inputs."""

    name = "ncnn-cpu"
    device_class = "cpu"
    statistic = "p10"

    def require(self) -> None:
        """See `Runtime.require`; the library and its converter."""
        for library in ("ncnn", "pnnx"):
            require_library(library, self.name)

    def device_name(self) -> str:
        """See `Runtime.device_name`."""
        return cpu_name()

    def options(self) -> dict[str, str]:
        """See `Runtime.options`."""
        return {"num_threads": str(self.threads), **dict.fromkeys(OFF, "false")}

    def prepare_onnx(self, model: Model, feeds: Mapping[str, np.ndarray]) -> Callable[[], None]:
        """See `OnnxModelRuntime.prepare_onnx`."""
        run = self._runner(model, feeds)

        def call() -> None:
            run(feeds)

        call()
        return call

    def infer(self, model: Model, *, limit_s: float | None = None) -> Infer:
        """See `OnnxModelRuntime.infer`; a model is converted once for each shape of its inputs."""
        runners: dict[tuple[Any, ...], Infer] = {}
        lock = threading.Lock()

        def run(feeds: Mapping[str, np.ndarray]) -> dict[str, Any]:
            key = tuple(array.shape[1:] for array in feeds.values())
            with lock:
                if key not in runners:
                    runners[key] = self._runner(model, feeds)
            return runners[key](feeds)

        return run

    def infer_unoptimised(self, model: Model, *, limit_s: float | None = None) -> Infer:
        """See `OnnxModelRuntime.infer_unoptimised`."""
        return OnnxRuntimeCpu(self.threads).infer_unoptimised(model, limit_s=limit_s)

    def placement(self, model: Model) -> dict[str, dict[str, int]]:
        """See `OnnxModelRuntime.placement`; layers are known once the sizes of the inputs are."""
        return {}

    def layers(self, model: Model, feeds: Mapping[str, np.ndarray]) -> dict[str, int]:
        """Return how many layers of each type a model has once it is converted.

        Raises:
            InputError: see `OnnxModelRuntime.prepare_onnx`.
        """
        counts = Counter(self._converted(model, feeds).kinds)
        return {kind: count for kind, count in sorted(counts.items()) if kind not in NO_WORK}

    def _runner(self, model: Model, feeds: Mapping[str, np.ndarray]) -> Infer:
        """A function that runs the model on feeds of these shapes, sample by sample."""
        import numpy as np

        ncnn = import_library("ncnn", self.name)
        converted = self._converted(model, feeds)
        net = self._loaded(ncnn, converted)
        # ncnn may start no more threads than it was built with.
        ncnn.set_omp_num_threads(self.threads)

        def run(given: Mapping[str, np.ndarray]) -> dict[str, Any]:
            arrays = [np.ascontiguousarray(given[name]) for name in converted.inputs]
            results: list[list[np.ndarray]] = [[] for _ in converted.outputs]
            for sample in range(len(arrays[0])):
                extractor = net.create_extractor()
                for place, array in enumerate(arrays):
                    extractor.input(f"in{place}", ncnn.Mat(array[sample]))
                for place, found in enumerate(results):
                    code, value = extractor.extract(f"out{place}")
                    if code:
                        raise InputError(
                            f"ncnn cannot run the model: error {code}", where=self.name
                        )
                    found.append(np.array(value))
            pairs = zip(converted.outputs, results, strict=True)
            return {name: np.stack(found) for name, found in pairs}

        return run

    def _loaded(self, ncnn: Any, converted: _Converted) -> Any:
        """A network of ncnn.

        Raises:
            InputError: it has a layer that ncnn does not have.
        """
        unknown = sorted({k for k in converted.kinds if ncnn.layer_to_index(k) < 0})
        if unknown:
            raise InputError(
                "ncnn has no such operator", where=self.name, actual=printable(", ".join(unknown))
            )
        net = ncnn.Net()
        net.opt.num_threads = self.threads
        for option in OFF:
            setattr(net.opt, option, False)
        with TemporaryDirectory() as folder:
            weights = Path(folder) / "model.bin"
            weights.write_bytes(converted.weights)
            if net.load_param_mem(converted.layers) or net.load_model(str(weights)):
                raise InputError("ncnn cannot load the converted model", where=self.name)
        return net

    def _converted(self, model: Model, feeds: Mapping[str, np.ndarray]) -> _Converted:
        import onnx

        data = model if isinstance(model, bytes) else onnx.load(model).SerializeToString()
        graph = onnx.load_from_string(data).graph
        self._require_inputs({value.name for value in graph.input}, feeds)
        ordered = [feeds[value.name] for value in graph.input]
        other = {str(array.dtype) for array in ordered} - {"float32"}
        if other or any(array.ndim < 2 for array in ordered):
            raise InputError(
                "ncnn runs samples of float32 values",
                where=self.name,
                expected="float32 inputs (N, ...)",
                actual=", ".join(f"{array.dtype} {array.shape}" for array in ordered),
            )
        # Converted for one sample, whatever the batch is.
        shapes = tuple((1, *array.shape[1:]) for array in ordered)
        outputs = tuple(value.name for value in graph.output)
        inputs = tuple(value.name for value in graph.input)
        layers, weights = _convert(data, shapes)
        return _Converted(layers, weights, inputs, outputs)


def _convert(data: bytes, shapes: tuple[tuple[int, ...], ...]) -> tuple[str, bytes]:
    """The layers and weights of a model, from those that are kept or by pnnx."""
    key = hashlib.sha256(data).hexdigest()
    with _WAITING:
        _MODELS[key] = data
        try:
            return _convert_once(key, shapes)
        finally:
            del _MODELS[key]


_MODELS: dict[str, bytes] = {}
"""Models by hash while they are converted, so that the cache keeps their hashes alone."""
_WAITING = threading.Lock()


@lru_cache(maxsize=KEPT)
def _convert_once(key: str, shapes: tuple[tuple[int, ...], ...]) -> tuple[str, bytes]:
    require_library("pnnx", NcnnCpu.name)
    # The program itself: importing its package would import PyTorch.
    spec = find_spec("pnnx")
    assert spec is not None and spec.origin is not None
    converter = Path(spec.origin).with_name("pnnx")
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model.onnx").write_bytes(_with_batch_of_one(_MODELS[key]))
        stated = ",".join(f"[{','.join(map(str, shape))}]f32" for shape in shapes)
        line = [str(converter), "model.onnx", f"inputshape={stated}", "fp16=0", "optlevel=2"]
        try:
            done = subprocess.run(
                line, cwd=folder, capture_output=True, timeout=CONVERSION_S, check=False
            )
        except subprocess.TimeoutExpired:
            raise InputError(
                "pnnx takes too long", where=NcnnCpu.name, expected=f"at most {CONVERSION_S} s"
            ) from None
        layers, weights = folder / "model.ncnn.param", folder / "model.ncnn.bin"
        if done.returncode or not layers.exists() or not weights.exists():
            lines = (done.stderr or done.stdout).decode("utf-8", "replace").strip().splitlines()
            raise InputError(
                "pnnx cannot convert the model",
                where=NcnnCpu.name,
                actual=printable((lines or [f"exit code {done.returncode}"])[-1]),
            )
        return layers.read_text("utf-8"), weights.read_bytes()


def _with_batch_of_one(data: bytes) -> bytes:
    """A model whose inputs and outputs state a batch of 1, which pnnx then leaves out."""
    import onnx

    model = onnx.load_from_string(data)
    for value in (*model.graph.input, *model.graph.output):
        sizes = value.type.tensor_type.shape.dim
        if sizes:
            sizes[0].dim_value = 1
    del model.graph.value_info[:]
    return bytes(model.SerializeToString())
