"""A trained model that a command names: a function that makes it, and a file with its weights."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from torch import nn

from hwnas.errors import InputError, first_line


def load_model(source: str, weights: Path | None = None) -> nn.Module:
    """Call a function that returns a model, and load its weights.

    Args:
        source: `MODULE:FUNCTION`, or `FILE.py:FUNCTION`. Modules are also looked for in the current
            folder.
        weights: a safetensors file with all tensors of the model's `state_dict`.

    Raises:
        InputError: when there is no such function, it fails or returns no module, or the weights
            are not those of the model.
    """
    place, separator, name = source.rpartition(":")
    if not separator or not place or not name:
        raise InputError("not a model", where=source, expected="MODULE:FUNCTION, as in nets:resnet")
    function = getattr(_imported(place, source), name, None)
    if not callable(function):
        raise InputError("no such function in this module", where=source, actual=name)
    try:
        model = function()
    except Exception as error:  # the user's code may raise anything
        raise InputError(
            "the function that makes the model failed", where=source, actual=first_line(error)
        ) from error
    if not isinstance(model, nn.Module):
        raise InputError(
            "the function returns no model",
            where=source,
            expected="a torch.nn.Module",
            actual=type(model).__name__,
        )
    if weights is not None:
        _load_weights(model, weights)
    return model


def _imported(place: str, source: str) -> ModuleType:
    """The module of a dotted name or of a file.

    Raises:
        InputError: when it cannot be imported.
    """
    try:
        if place.endswith(".py"):
            return _of_file(Path(place))
        folder = str(Path.cwd())
        if folder not in sys.path:
            sys.path.insert(0, folder)
        return importlib.import_module(place)
    except Exception as error:  # importing runs the user's code, which may raise anything
        raise InputError(
            "the module cannot be imported",
            where=source,
            actual=first_line(error),
            mend="call the command in the folder of the module, or name its file",
        ) from error


def _of_file(path: Path) -> ModuleType:
    specification = importlib.util.spec_from_file_location(path.stem, path)
    if specification is None or specification.loader is None:
        raise ImportError(str(path))
    module = importlib.util.module_from_spec(specification)
    sys.modules[path.stem] = module
    specification.loader.exec_module(module)
    return module


def _load_weights(model: nn.Module, path: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise InputError("no such file", where=str(path))
    try:
        model.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError, OSError) as error:
        lines = [line.strip() for line in str(error).splitlines()]
        raise InputError(
            "not the weights of this model",
            where=str(path),
            actual=" ".join(lines[:2]),
            mend="save them with safetensors.torch.save_file(model.state_dict(), ...)",
        ) from None
