"""The Triton kernels compile for three generations of GPUs without spills; no GPU is needed."""

from __future__ import annotations

import json
import re
from functools import cache

import pytest
import torch

pytest.importorskip("triton")

from helpers.triton_compilation import (
    CAPABILITIES,
    DTYPES,
    SHARED_MEMORY,
    TABLE,
    TABLE_CASE,
    WIDTHS,
    Resources,
    launches,
    measure,
    versions,
)
from machine_code import TOOLS, compile_launch

if not (TOOLS / "cuobjdump").exists():
    pytest.skip("this build of Triton has no NVIDIA tools", allow_module_level=True)

MATRIX = [
    pytest.param(*case, marks=() if case == TABLE_CASE else pytest.mark.slow)
    for case in ((w, d, c) for w in WIDTHS for d in DTYPES for c in CAPABILITIES)
]
ONCE_EACH = ("sum_weight_gradients",)
"""Kernels that run once on little data, so that the width of their loads does not matter."""


PER_LOAD = {"convolution": 16, "normalised": 28, "pools": 28}
"""Instructions of a loop over taps for each load of 16 bytes in float32."""
LOADS_OF_POOLS = 6
"""Of their three columns, 32 bytes a thread each; those of convolutions read weights as well."""


@cache
def measured(width: int, dtype: str, capability: int) -> dict[str, Resources]:
    return dict(measure(width, dtype, capability))


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("width,dtype,capability", MATRIX)
def test_nothing_spills_and_loads_are_wide(width, dtype, capability) -> None:
    for name, found in measured(width, dtype, capability).items():
        assert found.spills == 0, (name, found)
        assert found.shared <= SHARED_MEMORY[capability], (name, found)
        if name not in ONCE_EACH:
            assert found.wide_loads > 0, (name, found)


def test_resources_are_those_of_the_table() -> None:
    table = json.loads(TABLE.read_text())
    found = table.pop("versions")
    if found != versions():
        pytest.skip(f"the table is for {found}, installed are {versions()}")
    assert tuple(table.pop("fields")) == Resources._fields
    expected = {name: Resources(*row) for name, row in table.items()}
    assert measured(*TABLE_CASE) == expected


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("width,dtype,capability", MATRIX)
def test_loops_over_taps_read_sixteen_bytes_at_a_time(width, dtype, capability) -> None:
    """Two further loops are over the edges of pools and skip connections, and read tables."""
    for name, found in measured(width, dtype, capability).items():
        if name.startswith("stage") and "dense" not in name:
            narrow = [loop for loop in found.inner if loop[2]]
            backward_of_source = name.startswith("stage_b") and "normalised" not in name
            assert len(narrow) <= 2 * backward_of_source, (name, found.inner)
            assert len(found.inner) >= 2 + len(narrow), (name, found.inner)


def test_taps_take_few_instructions() -> None:
    """A row of taps reads four elements with each load, and rectifies, multiplies and adds them."""
    checked = 0
    for name, found in measured(*TABLE_CASE).items():
        if name.startswith("stage") and "separable" in name:
            kind = "normalised" if "normalised" in name else "convolution"
            for instructions, wide, narrow in found.inner:
                if not narrow:
                    limit = PER_LOAD["pools" if wide == LOADS_OF_POOLS else kind]
                    assert instructions <= limit * wide, (name, found.inner)
                    checked += 1
    assert checked >= 20


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_the_last_program_sees_what_the_others_wrote(capability) -> None:
    """Writes of all threads, a barrier, the addition with its fences, a barrier, reads."""
    launch = next(x for x in launches(16, torch.float32, 1, "ieee") if x.name == "reduce")
    code = compile_launch(launch, capability).asm["ptx"]
    before, addition, after = re.split(r"(atom\.\S+)", code)
    assert addition == "atom.global.gpu.acq_rel.add.u32"
    assert "st.global" in before
    assert "st.global" not in before[before.rindex("bar.sync") :]
    assert "ld.global" in after
    assert "ld.global" not in after[: after.index("bar.sync")]
