"""The tables of a configuration on the exported model and its check."""

from __future__ import annotations

from pydantic import Field

from hwnas.config.base import Section


class CheckConfig(Section):
    """Limits of the gates that the exported model has to pass."""

    min_sqnr_db: float = Field(
        80.0,
        description="least signal-to-quantisation-noise ratio of the outputs in dB, for float32 "
        "models",
    )
    max_accuracy_drop: float = Field(
        0.01, ge=0, le=1, description="largest loss of the task's score against the reference"
    )
    min_accuracy: float = Field(0.0, ge=0, le=1, description="least value of the task's score")
    finite: bool = Field(
        True,
        description="whether outputs that are NaN or infinite on finite inputs fail the check; "
        "false only reports them",
    )
    measure_seconds: float = Field(
        60.0, gt=0, description="time limit in seconds of the latency measurement"
    )
    compare: list[str] = Field(
        default_factory=list,
        description="further runtimes of ONNX models that have to give the same outputs, as in "
        '["openvino-cpu"]',
    )
    max_session_mb: float | None = Field(
        None,
        gt=0,
        description="memory in MB that loading and running the model may allocate on a CPU. "
        "Default: 8000, or 80 % of the free memory if that is less",
    )
    max_session_seconds: int = Field(
        120,
        ge=1,
        description="processor time in seconds that loading the model and three inferences may "
        "take, and time of each later inference",
    )


class ExportConfig(Section):
    """How the trained network becomes `model.onnx`."""

    preprocess: bool = Field(
        False,
        description="make the normalisation a part of the model, so that it reads raw inputs of "
        "the type of the data (uint8, uint16 or float32); the budget then includes it",
    )
