"""OpenVINO on CPUs, in float32, on stated threads, for the latency of one inference."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from hwnas.errors import InputError, RuntimeMissingError, first_line
from hwnas.latency_tables.devices import cpu_name, import_library
from hwnas.latency_tables.runtimes.base import Infer, Model, OnnxModelRuntime
from hwnas.latency_tables.runtimes.onnx import OnnxRuntimeCpu
from hwnas.latency_tables.statistics import Statistic

if TYPE_CHECKING:
    import numpy as np

NO_WORK = ("Constant", "Parameter", "Result")
"""Node types of a graph that compute nothing."""


class OpenVinoCpu(OnnxModelRuntime):
    """OpenVINO's CPU plugin; calls to be timed are compiled for the shapes they are fed with.

    Without a hint the plugin computes in bfloat16 where the processor has it.
    """

    name = "openvino-cpu"
    device_class = "cpu"
    statistic: ClassVar[Statistic] = "p10"

    def require(self) -> None:
        """See `Runtime.require`."""
        import_library("openvino", self.name)

    def device_name(self) -> str:
        """See `Runtime.device_name`."""
        return cpu_name()

    def options(self) -> dict[str, str]:
        """See `Runtime.options`; the properties that every model is compiled with.

        Threads are not pinned to cores: two processes would be pinned to the same ones.
        """
        return {
            "ENABLE_CPU_PINNING": "NO",
            "INFERENCE_NUM_THREADS": str(self.threads),
            "INFERENCE_PRECISION_HINT": "f32",
            "NUM_STREAMS": "1",
            "PERFORMANCE_HINT": "LATENCY",
        }

    def prepare_onnx(self, model: Model, feeds: Mapping[str, np.ndarray]) -> Callable[[], None]:
        """See `OnnxModelRuntime.prepare_onnx`."""
        openvino = import_library("openvino", self.name)
        graph = self._read(model)
        ports = {port.get_any_name(): port for port in graph.inputs}
        self._require_inputs(set(ports), feeds)
        shapes = {name: openvino.PartialShape(list(array.shape)) for name, array in feeds.items()}
        for name, shape in shapes.items():
            if not ports[name].partial_shape.compatible(shape):
                raise InputError(
                    f"OpenVINO cannot run the model: another shape of input {name!r}",
                    where=self.name,
                    expected=ports[name].partial_shape,
                    actual=shape,
                )
        try:
            graph.reshape({ports[name]: shape for name, shape in shapes.items()})
        except Exception as error:  # its exceptions share no base class
            raise self._refusal("cannot run the model", error) from error
        request = self._compile(graph).create_infer_request()

        def call() -> None:
            try:
                request.infer(share_outputs=True)
            except Exception as error:
                raise self._refusal("cannot run the model", error) from error

        try:
            for name, array in feeds.items():
                request.set_tensor(name, openvino.Tensor(array))
        except Exception as error:
            raise self._refusal("cannot run the model", error) from error
        call()
        return call

    def infer(self, model: Model, *, limit_s: float | None = None) -> Infer:
        """See `OnnxModelRuntime.infer`; every thread has a request of its own."""
        graph = self._read(model)
        names = [result.get_friendly_name().removesuffix(SINK) for result in graph.get_results()]
        compiled, own = self._compile(graph), threading.local()

        def run(feeds: Mapping[str, np.ndarray]) -> dict[str, Any]:
            if not hasattr(own, "request"):
                own.request = compiled.create_infer_request()
            found = own.request.infer(dict(feeds))
            return dict(zip(names, found.values(), strict=True))

        return run

    def infer_unoptimised(self, model: Model, *, limit_s: float | None = None) -> Infer:
        """See `OnnxModelRuntime.infer_unoptimised`."""
        return OnnxRuntimeCpu(self.threads).infer_unoptimised(model, limit_s=limit_s)

    def placement(self, model: Model) -> dict[str, dict[str, int]]:
        """See `OnnxModelRuntime.placement`; the parts are devices, operators OpenVINO's own."""
        graph = self._read(model)
        devices = import_library("openvino", self.name).Core().query_model(graph, "CPU")
        counts: dict[str, Counter[str]] = {}
        for node in graph.get_ops():
            if node.get_type_name() not in NO_WORK:
                device = devices.get(node.get_friendly_name(), "nowhere")
                counts.setdefault(device, Counter())[node.get_type_name()] += 1
        return {device: dict(sorted(found.items())) for device, found in counts.items()}

    def _read(self, model: Model) -> Any:
        """The graph, read as ONNX whatever the file's name is."""
        openvino = import_library("openvino", self.name)
        try:
            if isinstance(model, bytes):
                return openvino.Core().read_model(model)
            frontend = openvino.frontend.FrontEndManager().load_by_framework("onnx")
            return frontend.convert(frontend.load(str(model)))
        except Exception as error:
            raise self._refusal("refuses the model", error) from error

    def _compile(self, graph: Any) -> Any:
        """The graph for this CPU.

        Raises:
            InputError: OpenVINO cannot compile it.
            RuntimeMissingError: it was compiled with other properties than were asked for, which
                OpenVINO does without an error (more threads than cores, say).
        """
        options = self.options()
        try:
            compiled = (
                import_library("openvino", self.name).Core().compile_model(graph, "CPU", options)
            )
        except Exception as error:
            raise self._refusal("refuses the model", error) from error
        found = {key: _as_text(compiled.get_property(key)) for key in options}
        if found != options:
            raise RuntimeMissingError(
                "OpenVINO did not take its settings",
                where=self.name,
                expected=options,
                actual=found,
                mend="state no more threads than the machine has cores",
            )
        return compiled

    def _refusal(self, what: str, error: Exception) -> InputError:
        return InputError(f"OpenVINO {what}: {_reason(error)}", where=self.name)


SINK = "/sink_port_0"
"""What the names of results have behind those of the ONNX graph's outputs."""


def _as_text(value: Any) -> str:
    """A property as it is set."""
    if isinstance(value, bool):
        return "YES" if value else "NO"
    return value.get_type_name() if hasattr(value, "get_type_name") else str(value)


def _reason(error: Exception) -> str:
    """The first line that says more than where in OpenVINO's sources it was raised."""
    lines = [line for line in str(error).splitlines() if line and "Exception from" not in line]
    return lines[0] if lines else first_line(error)
