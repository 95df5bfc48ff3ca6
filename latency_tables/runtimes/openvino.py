"""OpenVINO on CPUs: float32, a given number of threads, tuned for the latency of one inference."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from hwnas.errors import InputError, RuntimeMissingError, first_line
from hwnas.latency_tables.devices import cpu_name, import_library, require_library
from hwnas.latency_tables.runtimes.base import Infer, Model, OnnxModelRuntime
from hwnas.latency_tables.runtimes.onnx import OnnxRuntimeCpu

if TYPE_CHECKING:
    import numpy as np

NO_WORK = ("Constant", "Parameter", "Result")
"""Node types of a graph that compute nothing."""
SINK = "/sink_port_0"
"""Suffix that OpenVINO appends to the names of the ONNX graph's outputs."""


class OpenVinoCpu(OnnxModelRuntime):
    """OpenVINO's CPU plugin.

    A model that is timed is compiled for the shapes of its inputs. The precision is set to float32,
    since the plugin's default is bfloat16 on processors that support it.
    """

    name = "openvino-cpu"
    device_class = "cpu"
    statistic = "p10"

    def require(self) -> None:
        """See `Runtime.require`."""
        require_library("openvino", self.name)

    def device_name(self) -> str:
        """See `Runtime.device_name`."""
        return cpu_name()

    def options(self) -> dict[str, str]:
        """See `Runtime.options`; the properties that every model is compiled with.

        Threads are not pinned to cores, because two processes would be pinned to the same cores.
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
                    f"OpenVINO cannot run the model: wrong shape of input {name!r}",
                    where=self.name,
                    expected=ports[name].partial_shape,
                    actual=shape,
                )
        try:
            graph.reshape({ports[name]: shape for name, shape in shapes.items()})
        except Exception as error:  # its exceptions share no base class
            raise self._error("cannot run the model", error) from error
        request = self._compile(graph).create_infer_request()

        def call() -> None:
            try:
                request.infer(share_outputs=True)
            except Exception as error:
                raise self._error("cannot run the model", error) from error

        try:
            for name, array in feeds.items():
                request.set_tensor(name, openvino.Tensor(array))
        except Exception as error:
            raise self._error("cannot run the model", error) from error
        call()
        return call

    def infer(self, model: Model, *, limit_s: float | None = None) -> Infer:
        """See `OnnxModelRuntime.infer`; every thread has its own inference request."""
        graph = self._read(model)
        names = [result.get_friendly_name().removesuffix(SINK) for result in graph.get_results()]
        compiled, of_thread = self._compile(graph), threading.local()

        def run(feeds: Mapping[str, np.ndarray]) -> dict[str, Any]:
            if not hasattr(of_thread, "request"):
                of_thread.request = compiled.create_infer_request()
            found = of_thread.request.infer(dict(feeds))
            return dict(zip(names, found.values(), strict=True))

        return run

    def infer_unoptimised(self, model: Model, *, limit_s: float | None = None) -> Infer:
        """See `OnnxModelRuntime.infer_unoptimised`."""
        return OnnxRuntimeCpu(self.threads).infer_unoptimised(model, limit_s=limit_s)

    def placement(self, model: Model) -> dict[str, dict[str, int]]:
        """See `OnnxModelRuntime.placement`; by device, with OpenVINO's names of operators."""
        graph = self._read(model)
        devices = import_library("openvino", self.name).Core().query_model(graph, "CPU")
        counts: dict[str, Counter[str]] = {}
        for node in graph.get_ops():
            if node.get_type_name() not in NO_WORK:
                device = devices.get(node.get_friendly_name(), "nowhere")
                counts.setdefault(device, Counter())[node.get_type_name()] += 1
        return {device: dict(sorted(found.items())) for device, found in counts.items()}

    def _read(self, model: Model) -> Any:
        """Return the graph of a model; a file is read as ONNX whatever its name is."""
        openvino = import_library("openvino", self.name)
        try:
            if isinstance(model, bytes):
                return openvino.Core().read_model(model)
            frontend = openvino.frontend.FrontEndManager().load_by_framework("onnx")
            return frontend.convert(frontend.load(str(model)))
        except Exception as error:
            raise self._error("cannot load the model", error) from error

    def _compile(self, graph: Any) -> Any:
        """Compile a graph for this CPU.

        Raises:
            InputError: OpenVINO cannot compile it.
            RuntimeMissingError: OpenVINO compiled it with other properties than requested, which
                it does without an error, for example if there are fewer cores than threads.
        """
        options = self.options()
        try:
            compiled = (
                import_library("openvino", self.name).Core().compile_model(graph, "CPU", options)
            )
        except Exception as error:
            raise self._error("cannot load the model", error) from error
        found = {key: _as_text(compiled.get_property(key)) for key in options}
        if found != options:
            raise RuntimeMissingError(
                "OpenVINO did not apply the settings",
                where=self.name,
                expected=options,
                actual=found,
                mend="use at most as many threads as the machine has cores",
            )
        return compiled

    def _error(self, what: str, error: Exception) -> InputError:
        return InputError(f"OpenVINO {what}: {_reason(error)}", where=self.name)


def _as_text(value: Any) -> str:
    """Return a property's value in the form in which it is set."""
    if isinstance(value, bool):
        return "YES" if value else "NO"
    return value.get_type_name() if hasattr(value, "get_type_name") else str(value)


def _reason(error: Exception) -> str:
    """Return the first line that does not merely name a position in OpenVINO's sources."""
    lines = [line for line in str(error).splitlines() if line and "Exception from" not in line]
    return lines[0] if lines else first_line(error)
