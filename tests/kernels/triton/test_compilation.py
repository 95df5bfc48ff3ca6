"""The Triton kernels compile for three generations of GPUs without spills; no GPU is needed."""

from __future__ import annotations

import json
from functools import cache

import pytest

pytest.importorskip("triton")

from helpers.triton_compilation import (
    CAPABILITIES,
    DTYPES,
    SHARED_MEMORY,
    TABLE,
    TOOLS,
    WIDTHS,
    Resources,
    measure,
    versions,
)

if not (TOOLS / "cuobjdump").exists():
    pytest.skip("this build of Triton has no NVIDIA tools", allow_module_level=True)

QUICK = (16, "float32", 90)
MATRIX = [
    pytest.param(*case, marks=() if case == QUICK else pytest.mark.slow)
    for case in ((w, d, c) for w in WIDTHS for d in DTYPES for c in CAPABILITIES)
]
ONCE_EACH = ("normalise", "normalise_backward", "sum_weight_gradients")
"""Kernels that run once on little data, so that the width of their loads does not matter."""


@cache
def measured(width: int, dtype: str, capability: int) -> dict[str, Resources]:
    return dict(measure(width, dtype, capability))


@pytest.mark.parametrize("width,dtype,capability", MATRIX)
def test_nothing_spills_and_loads_are_wide(width, dtype, capability) -> None:
    for name, found in measured(width, dtype, capability).items():
        assert found.spills == 0, (name, found)
        assert found.shared <= SHARED_MEMORY[capability], (name, found)
        if name not in ONCE_EACH:
            assert found.wide_loads > 0, (name, found)


@pytest.mark.parametrize("width,dtype,capability", MATRIX)
def test_resources_are_those_of_the_table(width, dtype, capability) -> None:
    table = json.loads(TABLE.read_text())
    if table["versions"] != versions():
        pytest.skip(f"the table is for {table['versions']}, installed are {versions()}")
    prefix = f"{dtype} sm_{capability} width {width}: "
    expected = {
        name.removeprefix(prefix): Resources(*row)
        for name, row in table.items()
        if name.startswith(prefix)
    }
    assert measured(width, dtype, capability) == expected
