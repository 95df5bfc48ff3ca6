"""Whether an int8 model computes something else on processors with other instructions.

On x86 processors without VNNI, ONNX Runtime multiplies unsigned 8-bit activations with signed 8-bit
weights by `vpmaddubsw`: the sum of two products is kept in 16 bits and saturates at 32767. Weights
of the whole range from -128 to 127 exceed that. Weights of 7 bits cannot (`reduce_range`), because
2 * 255 * 64 = 32640.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwnas.checking.agreement import Agreement
from hwnas.checking.inputs.feeds import FeedMaker
from hwnas.checking.outputs import Feeds, Outputs
from hwnas.checking.parity import compare_outputs
from hwnas.config import CheckConfig
from hwnas.errors import HwnasError, InputError
from hwnas.inspection.process import Inspection
from hwnas.latency_tables.measuring.limits import allow_seconds, run_in_process

CPU_INFO = Path("/proc/cpuinfo")
INSTRUCTIONS = (
    *("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8"),
    *("asimd", "asimddp", "i8mm", "sve"),
)
"""Instruction sets that decide how 8-bit numbers are multiplied, as Linux names them."""
SAMPLES, MOST_SECONDS = 7, 20
"""Number of samples whose outputs are emulated twice, and processor time for that."""


@dataclass(frozen=True)
class Saturation:
    """What an int8 model computes on x86 processors without VNNI.

    Attributes:
        operators: names of the outputs of operators whose sums can saturate.
        sqnr_db: signal-to-noise ratio of the model's outputs against exact sums; None if they are
            equal or could not be emulated.
        agreement: share of samples of the same class; None for a model without classes.
        error: why the outputs could not be emulated, or None.
    """

    operators: tuple[str, ...]
    sqnr_db: float | None = None
    agreement: float | None = None
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return vars(self) | {"operators": list(self.operators)}

    @property
    def warning(self) -> str:
        """What it means, and what to do about it."""
        if self.sqnr_db is None:
            effect = "it changes no output for these inputs"
        else:
            effect = f"it leaves the outputs an SQNR of {self.sqnr_db:.1f} dB"
            if self.agreement is not None:
                effect += f", and {self.agreement:.1%} of the classes stay the same"
        return (
            f"{len(self.operators)} operators multiply unsigned by signed 8-bit numbers of the "
            f"whole range, whose sums saturate on x86 processors without VNNI: {effect}; weights "
            "of 7 bits avoid it (variants int8-reduced and int8-dynamic-reduced)"
        )

    @property
    def note(self) -> str | None:
        """What is worth knowing where no output changes, or the emulation failed."""
        if self.error is not None:
            return f"8-bit sums that saturate without VNNI could not be emulated: {self.error}"
        return self.warning if self.sqnr_db is None else None


def cpu_instructions() -> list[str]:
    """Which of `INSTRUCTIONS` this machine's processor has; empty if the system does not tell."""
    if not CPU_INFO.exists():
        return []
    lines = CPU_INFO.read_text(errors="replace").splitlines()
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "").split()
    return [name for name in INSTRUCTIONS if name in flags]


def saturation_of(model: Inspection, feeds: FeedMaker, limits: CheckConfig) -> Saturation | None:
    """Emulate an int8 model as it runs on x86 processors without VNNI.

    Args:
        model: the inspected model, which runs in this process already.
        feeds: generates its inputs.
        limits: limits of the process that emulates it.

    Returns:
        None if no sum of the model can saturate.
    """
    batch = SAMPLES if feeds.is_dynamic else feeds.batch
    given = [feeds.real(batch, seed) for seed in range(2)]
    try:
        found: Mapping[str, Any] = run_in_process(
            _emulate,
            *(model.path, given, min(MOST_SECONDS, limits.max_session_seconds)),
            terminated=InputError("takes too long or too much memory"),
        )
    except HwnasError as error:
        return Saturation((), error=str(error))
    if not found["operators"]:
        return None
    parity = compare_outputs(
        [list(outputs.values()) for outputs in found["exact"]],
        [list(outputs.values()) for outputs in found["saturated"]],
        str(model.path),
    )
    agreements: tuple[Agreement, ...] = parity.agreements
    share = min((one.share for one in agreements), default=None)
    return Saturation(tuple(found["operators"]), parity.sqnr_db, share)


def _emulate(path: Path, given: list[Feeds], limit_s: int) -> dict[str, Any]:
    """Outputs as ONNX Runtime computes them exactly, and with sums that saturate."""
    from hwnas.checking.saturation_emulator import Emulator

    allow_seconds(limit_s)
    emulator = Emulator(path)
    if not emulator.saturating:
        return {"operators": []}
    exact: list[Outputs] = [emulator.run(feeds, saturate=False) for feeds in given]
    saturated: list[Outputs] = [emulator.run(feeds, saturate=True) for feeds in given]
    return {"operators": emulator.saturating, "exact": exact, "saturated": saturated}
