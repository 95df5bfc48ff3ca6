"""Every public method says what it does, itself or through the method that it overrides."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

import pytest
from pydantic import BaseModel

import hwnas

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(hwnas.__path__, "hwnas.")
    # Kernels need Triton.
    if not module.name.endswith(("__main__", "_library")) and ".kernels.triton" not in module.name
)


@pytest.mark.parametrize("name", MODULES)
def test_public_methods_have_docstrings(name: str) -> None:
    module = importlib.import_module(name)
    missing = []
    for kind in vars(module).values():
        if not inspect.isclass(kind) or kind.__module__ != name or kind.__name__.startswith("_"):
            continue
        for method, value in vars(kind).items():
            function = getattr(value, "fget", getattr(value, "func", value))
            # A forward pass is described by its module's docstring, as in PyTorch.
            if method.startswith("_") or not inspect.isfunction(function) or method == "forward":
                continue
            if not function.__qualname__.startswith(kind.__qualname__):
                continue  # the default of a dataclass's field
            if issubclass(kind, BaseModel) and method.startswith("model_"):
                continue
            if not inspect.getdoc(getattr(kind, method)):
                missing.append(f"{kind.__name__}.{method}")
    assert not missing
