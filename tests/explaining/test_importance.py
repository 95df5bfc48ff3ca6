"""Importances against the exact decomposition of the variance of an additive function."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from helpers.tiny import tiny_space

from hwnas.errors import RuntimeMissingError
from hwnas.explaining.importance import importances


def test_shares_of_an_additive_function_are_those_of_its_terms() -> None:
    space = tiny_space("nasbench201")
    rng = np.random.default_rng(0)
    terms = rng.normal(size=(6, 5)) * np.array([3.0, 1.5, 0.5, 0.0, 0.0, 0.0])[:, None]
    sample = [space.sample(rng) for _ in range(250)]
    values = [sum(terms[row, option] for row, option in enumerate(space.chosen(a))) for a in sample]
    variances = terms.var(axis=1)
    exact = variances / variances.sum()
    found = importances(space, sample, values)
    for row, choice in enumerate(space.choices):
        assert found[choice.name] == pytest.approx(exact[row], abs=0.1)
    assert next(iter(found)) == space.choices[int(exact.argmax())].name
    assert set(importances(space, sample, [1.0] * 250).values()) == {0.0}


def test_without_the_library_the_error_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(RuntimeMissingError, match=r"scikit-learn is not .*hwnas\[explain\]"):
        importances(tiny_space("nasbench201"), [], [])
