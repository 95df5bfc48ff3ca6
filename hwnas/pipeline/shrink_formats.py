"""int8 for single operators of a network that is shrunk, so that a wider one keeps the budget.

The formats are chosen for an exported network as `hwnas quantize --variants int8-mixed` does: by
the measured cost of each operator and of each pair of neighbours, and by the noise of each operator
on training samples.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import onnx

from hwnas.budget.selection import Measured
from hwnas.deploy.export import export_network, require_deployable
from hwnas.deploy.format_choice import MixedChoice, fastest_within, least_noise
from hwnas.deploy.mixed_precision import measured_formats, measured_ratios
from hwnas.deploy.sensitivity import named_nodes, operator_sensitivity
from hwnas.deploy.variants import convert
from hwnas.errors import InputError
from hwnas.latency_tables.runtimes import OnnxModelRuntime
from hwnas.pipeline.calibration_samples import calibration_feeds
from hwnas.pipeline.profile import example_feeds
from hwnas.pipeline.run import Run
from hwnas.runs import interruption
from hwnas.runs.run_folder import RunFolder
from hwnas.spaces.networks import Network

SCHEMA = 1
MOST_NOISE = 10**-2.5
"""Power of the quantised operators' noise relative to the outputs, 25 dB below them: 10 dB better
than the least that the check of an int8 model accepts."""
SENSITIVITY_BATCHES = 2
"""Calibration batches on which each operator is quantised alone."""


@dataclass(frozen=True)
class Formats:
    """Which operators of a network are quantised.

    Attributes:
        float32: names of the nodes that stay float32.
        ratio: measured latency as a share of that of the network in float32.
        sqnr_db: predicted ratio of signal to noise of the outputs; None without noise.
        quantised: operators that are quantised.
        operators: operators whose format is chosen.
    """

    float32: tuple[str, ...]
    ratio: float
    sqnr_db: float | None
    quantised: int
    operators: int


def find_formats(run: Run, network: Network, limit: float = 0.0) -> Formats | None:
    """Measure a network's operators in int8 and choose their formats.

    Args:
        run: has the runtime and the samples.
        network: in evaluation mode.
        limit: latency to be reached, as a share of the network's in float32.

    Returns:
        The choice of least noise that is predicted to reach the limit. If none does with little
        enough noise, the fastest one with so little; None if that is not faster than float32.
    """
    runtime = run.target.runtime
    assert isinstance(runtime, OnnxModelRuntime)
    model, where = named_nodes(exported_network(run, network)), "the exported network"
    shape, preprocessing = run.problem.input_shape, run.problem.preprocessing
    name = run.problem.task.input_name
    single = example_feeds(run.config.latency.batch, shape, preprocessing, name)
    calibration = calibration_feeds(run)[:SENSITIVITY_BATCHES]
    with run.stage("formats") as advance:

        def progress(done: int, total: int, text: str) -> None:
            interruption.stop_if_requested()
            advance(done, total, text)

        try:
            sensitivity = operator_sensitivity(model, runtime, calibration, where, progress)
            formats = measured_formats(model, sensitivity, runtime, single, where, progress)
        except InputError as error:
            advance(1, 1, f"float32: {error}")
            return None
        chosen = least_noise(formats, limit)
        if chosen is None or formats.noise[chosen].sum() > MOST_NOISE:
            chosen = fastest_within(formats, MOST_NOISE)
        if not chosen.any():
            advance(1, 1, "float32: no operator is faster in int8")
            return None
        choice = formats.choice(chosen)
        (ratio,) = measured_ratios(model, [choice.float32], runtime, single, where, progress)
        found = _measured(choice, float(ratio))
        advance(1, 1, f"{found.quantised} of {found.operators} operators in int8, {ratio:.3f}")
    return found if found.ratio < 1.0 else None


def _measured(choice: MixedChoice, ratio: float) -> Formats:
    return Formats(choice.float32, ratio, choice.predicted_sqnr_db, *choice.layers)


def exported_network(run: Run, network: Network) -> onnx.ModelProto:
    """A network as ONNX, in float32."""
    names = run.problem.task.input_name, run.problem.task.output_name
    shape, preprocessing = run.problem.input_shape, run.problem.preprocessing
    return export_network(network, shape, names, preprocessing)


def write_formats(folder: RunFolder, formats: Formats) -> None:
    """Write `formats.json`, by which the network will be exported."""
    folder.write_json(folder.formats, {"schema": SCHEMA, **asdict(formats)})


def read_formats(folder: RunFolder) -> Formats | None:
    """The formats that were chosen for a run's network; None if all of it is float32.

    Raises:
        InputError: when the file is damaged.
    """
    if not folder.formats.exists():
        return None
    document = folder.read_json(folder.formats)
    try:
        names = tuple(str(name) for name in document["float32"])
        return Formats(**{k: v for k, v in document.items() if k != "schema"} | {"float32": names})
    except (KeyError, TypeError):
        raise InputError(
            "not the formats of a network's operators",
            where=str(folder.formats),
            mend=f"`{folder.writer(folder.formats)}` writes it",
        ) from None


def quantised(run: Run, model: onnx.ModelProto, formats: Formats) -> onnx.ModelProto:
    """An exported network in the formats that were chosen for it.

    Raises:
        InputError: when it cannot be converted.
        HwnasError: when the result contains an operator that must not be deployed.
    """
    folder = run.folder
    with folder.temporary_folder() as temporary:
        feeds = calibration_feeds(run)
        found = convert(
            "int8", named_nodes(model), feeds, str(folder.model), temporary, formats.float32
        )
    require_deployable(found)
    return found


def in_formats(folder: RunFolder, measured: Measured) -> Measured:
    """A network in float32 with the latency that is predicted in the run's formats."""
    formats = read_formats(folder)
    if formats is None:
        return measured
    return replace(measured, predicted_ms=measured.predicted_ms * formats.ratio)
