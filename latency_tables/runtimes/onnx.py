"""ONNX Runtime with its execution providers."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from hwnas.errors import InputError, RuntimeMissingError
from hwnas.latency_tables.devices import (
    cpu_name,
    cuda_device_name,
    cuda_versions,
    import_library,
    require_cuda_device,
    require_library,
)
from hwnas.latency_tables.runtimes.base import Infer, Model, OnnxModelRuntime
from hwnas.latency_tables.runtimes.onnx_errors import cause_of
from hwnas.latency_tables.runtimes.onnx_values import NARROW, to_ort_value, to_python

if TYPE_CHECKING:
    import numpy as np

MEASURE_ELSEWHERE = (
    "measure on a machine that has it, with ONNX Runtime: "
    "`python measure.py --model model.onnx --provider TensorrtExecutionProvider` (from `hwnas "
    "profile --bundle DIR`), then `hwnas check model.onnx --measured results.json`; or with "
    "TensorRT alone: `trtexec --onnx=model.onnx --shapes=images:BATCHxCHANNELSxHEIGHTxWIDTH "
    "--noTF32 --useCudaGraph --noDataTransfers --exportTimes=times.json`, then `hwnas check "
    "model.onnx --measured times.json`; the median is a row of `hwnas table fit --measurements "
    "measured.csv`"
)
QUIET = 4
"""ONNX Runtime's log level of fatal errors. Other errors are raised as exceptions, and their log
would print texts of the model on the terminal."""


class OnnxRuntime(OnnxModelRuntime):
    """ONNX Runtime with all graph optimisations (operator fusion, blocked memory layouts).

    Attributes:
        providers: execution providers in order of preference; the first one must start.
        provider_options: options of the first provider.
        memory: device whose memory holds the inputs and outputs, "cpu" or "cuda".
    """

    providers: ClassVar[tuple[str, ...]]
    provider_options: ClassVar[dict[str, str]] = {}
    memory: ClassVar[str]

    def require(self) -> None:
        """See `Runtime.require`."""
        require_library("onnxruntime", self.name)

    def options(self) -> dict[str, str]:
        """See `Runtime.options`; includes the providers and the options of the first one."""
        return {
            "execution_mode": "ORT_SEQUENTIAL",
            "graph_optimization_level": "ORT_ENABLE_ALL",
            "inter_op_num_threads": "1",
            "intra_op_num_threads": str(self.threads),
            "providers": ", ".join(self.providers),
            **self.provider_options,
        }

    def session(
        self,
        model: Model,
        *,
        optimised: bool = True,
        entries: Mapping[str, str] | None = None,
        profile_to: str | None = None,
    ) -> Any:
        """Start an `onnxruntime.InferenceSession` as it is deployed.

        Args:
            model: an ONNX model.
            optimised: whether ONNX Runtime optimises the graph; False runs it as it is in the file.
            entries: further entries of the session's configuration.
            profile_to: prefix of the profiler's output file; None turns the profiler off.

        Raises:
            InputError: ONNX Runtime cannot load the model.
            RuntimeMissingError: the first execution provider did not start. ONNX Runtime itself
                falls back to the next provider without an error.
        """
        ort = import_library("onnxruntime", self.name)
        options = self._session_options(ort, optimised, entries or {}, profile_to)
        source = model if isinstance(model, bytes) else str(model)
        first, *others = self.providers
        providers = [(first, self.provider_options), *others]
        try:
            session = ort.InferenceSession(source, options, providers=providers)
        except Exception as error:  # its exceptions share no base class
            raise InputError(
                f"ONNX Runtime cannot load the model: {cause_of(error)}",
                where=self.name,
                details=str(error),
            ) from error
        if session.get_providers()[0] != first:
            raise RuntimeMissingError(
                "the execution provider did not start",
                where=self.name,
                expected=first,
                actual=session.get_providers()[0],
                mend="install its libraries or choose onnxruntime-cpu",
            )
        # Do not let ONNX Runtime replace a provider that fails during a run.
        session.disable_fallback()
        return session

    def _session_options(
        self, ort: Any, optimised: bool, entries: Mapping[str, str], profile_to: str | None
    ) -> Any:
        """Return `onnxruntime.SessionOptions` with the settings that `options` states."""
        options, stated = ort.SessionOptions(), self.options()
        level = stated["graph_optimization_level"] if optimised else "ORT_DISABLE_ALL"
        options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
        options.execution_mode = getattr(ort.ExecutionMode, stated["execution_mode"])
        options.intra_op_num_threads = int(stated["intra_op_num_threads"])
        options.inter_op_num_threads = int(stated["inter_op_num_threads"])
        options.log_severity_level = QUIET
        if profile_to is not None:
            options.enable_profiling = True
            options.profile_file_prefix = profile_to
        # Without a stated format ONNX Runtime derives it from the file's name.
        for key, value in {"session.load_model_format": "ONNX", **entries}.items():
            options.add_session_config_entry(key, value)
        return options

    def infer(self, model: Model, *, limit_s: float | None = None) -> Infer:
        """See `OnnxModelRuntime.infer`."""
        return self._as_function(self.session(model), limit_s)

    def infer_unoptimised(self, model: Model, *, limit_s: float | None = None) -> Infer:
        """See `OnnxModelRuntime.infer_unoptimised`."""
        return self._as_function(self.session(model, optimised=False), limit_s)

    def placement(self, model: Model) -> dict[str, dict[str, int]]:
        """See `OnnxModelRuntime.placement`; the parts are execution providers.

        Nodes are counted when the graph is partitioned among the providers, before each provider
        fuses operators in its own partition.
        """
        session = self.session(model, entries={"session.record_ep_graph_assignment_info": "1"})
        counts: dict[str, Counter[str]] = {}
        for part in session.get_provider_graph_assignment_info():
            operators = counts.setdefault(part.ep_name, Counter())
            operators.update(
                f"{node.domain}:{node.op_type}" if node.domain else node.op_type
                for node in part.get_nodes()
            )
        return {provider: dict(sorted(found.items())) for provider, found in counts.items()}

    def prepare_onnx(self, model: Model, feeds: Mapping[str, np.ndarray]) -> Callable[[], None]:
        """See `OnnxModelRuntime.prepare_onnx`.

        Strings, sequences and maps cannot be bound; models with such inputs or outputs get their
        inputs with every call.
        """
        session = self.session(model)
        self._require_inputs({value.name for value in session.get_inputs()}, feeds)
        types = [value.type for value in (*session.get_inputs(), *session.get_outputs())]
        can_bind = all(kind.startswith("tensor(") and "string" not in kind for kind in types)
        return self._bound(session, feeds) if can_bind else self._unbound(session, feeds)

    def _unbound(self, session: Any, feeds: Mapping[str, np.ndarray]) -> Callable[[], None]:
        """Return a function that passes the inputs with every call."""
        run = self._as_function(session, None)

        def call() -> None:
            try:
                run(feeds)
            except Exception as error:  # its exceptions share no base class
                raise self._cannot_run(error) from error

        call()
        return call

    def _bound(self, session: Any, feeds: Mapping[str, np.ndarray]) -> Callable[[], None]:
        """Return a function that reads and writes tensors which are bound in advance."""
        binding = session.io_binding()

        def call() -> None:
            try:
                session.run_with_iobinding(binding)
            except Exception as error:  # its exceptions share no base class
                raise self._cannot_run(error) from error

        # Some exporters name an output twice; it is bound once.
        outputs = list(dict.fromkeys(value.name for value in session.get_outputs()))
        kinds = {value.name: value.type for value in session.get_inputs()}
        for name in outputs:
            binding.bind_output(name, self.memory)

        try:
            for name, array in feeds.items():
                value = to_ort_value(array, kinds[name], self.memory)
                binding.bind_ortvalue_input(name, value)
        except Exception as error:
            raise self._cannot_run(error) from error
        call()
        # The first run has allocated the outputs; binding them avoids an allocation in later runs.
        for name, value in zip(outputs, binding.get_outputs(), strict=True):
            binding.bind_ortvalue_output(name, value)
        return call

    def _as_function(self, session: Any, limit_s: float | None) -> Infer:
        names = [value.name for value in session.get_outputs()]
        kinds = {value.name: value.type for value in session.get_inputs()}
        is_narrow = any(v.type in NARROW for v in (*session.get_inputs(), *session.get_outputs()))

        def run(feeds: Mapping[str, np.ndarray]) -> dict[str, Any]:
            with self._ends_within(limit_s) as options:
                if not is_narrow:
                    return dict(zip(names, session.run(None, dict(feeds), options), strict=True))
                given = {n: to_ort_value(array, kinds[n], "cpu") for n, array in feeds.items()}
                found = session.run_with_ort_values(names, given, options)
                return dict(zip(names, map(to_python, found), strict=True))

        return run

    @contextmanager
    def _ends_within(self, limit_s: float | None) -> Iterator[Any]:
        """Yield options of a run that stop it, between two operators, after `limit_s` seconds.

        Raises:
            InputError: the run was stopped.
        """
        if limit_s is None:
            yield None
            return
        options = import_library("onnxruntime", self.name).RunOptions()
        options.log_severity_level = QUIET
        timer = threading.Timer(limit_s, setattr, (options, "terminate", True))
        timer.daemon = True
        timer.start()
        try:
            yield options
        except Exception as error:  # its exceptions share no base class
            if not options.terminate:
                raise
            raise InputError(
                "an inference takes too long", where=self.name, expected=f"at most {limit_s:g} s"
            ) from error
        finally:
            timer.cancel()

    def _cannot_run(self, error: Exception) -> InputError:
        return InputError(
            f"ONNX Runtime cannot run the model: {cause_of(error)}",
            where=self.name,
            details=str(error),
        )


class OnnxRuntimeCpu(OnnxRuntime):
    """ONNX Runtime on the CPU."""

    name = "onnxruntime-cpu"
    device_class = "cpu"
    statistic = "p10"
    providers = ("CPUExecutionProvider",)
    memory = "cpu"

    def device_name(self) -> str:
        """See `Runtime.device_name`."""
        return cpu_name()


class OnnxRuntimeCuda(OnnxRuntime):
    """ONNX Runtime on an NVIDIA GPU.

    Each run waits until the GPU has finished, so the host's clock can time it.
    """

    name = "onnxruntime-cuda"
    device_class = "gpu"
    statistic = "median"
    providers: ClassVar[tuple[str, ...]] = ("CUDAExecutionProvider", "CPUExecutionProvider")
    memory = "cuda"

    def require(self) -> None:
        """See `Runtime.require`; starts a session, which alone reveals a fallback to the CPU."""
        super().require()
        require_cuda_device(self.name)
        self.session(_identity_model())

    def device_name(self) -> str:
        """See `Runtime.device_name`."""
        return cuda_device_name()

    def _versions(self) -> dict[str, str]:
        return super()._versions() | cuda_versions()


class TensorRtCuda(OnnxRuntimeCuda):
    """TensorRT as an execution provider of ONNX Runtime.

    Operators that it does not support are run by the CUDA or CPU provider.
    """

    name = "tensorrt-cuda"
    providers = ("TensorrtExecutionProvider", *OnnxRuntimeCuda.providers)
    provider_options: ClassVar[dict[str, str]] = {"trt_fp16_enable": "0", "trt_int8_enable": "0"}

    def require(self) -> None:
        """See `Runtime.require`; the error tells how to measure on a machine with TensorRT."""
        try:
            super().require()
        except RuntimeMissingError as error:
            raise RuntimeMissingError(
                f"TensorRT is not available ({error.cause})",
                where=self.name,
                mend=MEASURE_ELSEWHERE,
            ) from error


def _identity_model() -> bytes:
    """Return a minimal ONNX model, which shows whether an execution provider starts."""
    from onnx import TensorProto, helper

    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "identity", [x], [y])
    opset = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8)
    return bytes(model.SerializeToString())
