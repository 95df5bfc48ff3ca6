"""The modes of PyTorch: eager execution, exported programs and compiled programs."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwnas.errors import InputError, RuntimeMissingError, first_line

if TYPE_CHECKING:
    import torch
    from torch import nn

Mode = Callable[["nn.Module", tuple["torch.Tensor", ...], int], Callable[..., Any]]
"""Takes a module in eval mode, example inputs and a number of threads; returns a callable program.

It raises InputError if PyTorch cannot export or compile the module, or compiles another one.
"""
WRONG = "PyTorch compiles the network to a program that computes something else"


def eager(module: nn.Module, inputs: tuple[torch.Tensor, ...], threads: int) -> Callable[..., Any]:
    """Return the module itself."""
    return module


def exported(
    module: nn.Module, inputs: tuple[torch.Tensor, ...], threads: int
) -> Callable[..., Any]:
    """Return the program of `torch.export`: the operators in sequence, for these input shapes."""
    program: Callable[..., Any] = _export(module, inputs).module()
    return program


def compiled(
    module: nn.Module, inputs: tuple[torch.Tensor, ...], threads: int
) -> Callable[..., Any]:
    """Return the exported program compiled by `torch.compile`, with weights as constants.

    The exported program is compiled instead of the module because PyTorch caches only a few
    compiled functions for each piece of code: modules of one class share their code, exported
    programs do not. If the program cannot be compiled, an error is raised instead of running it
    eagerly.
    """
    import torch

    for settings in _tried_settings(threads):
        program = torch.compile(exported(module, inputs, threads), fullgraph=True, dynamic=False)
        try:
            # Passed as `options`, the settings would come too late to make the weights constants.
            with torch._inductor.config.patch(settings), torch.inference_mode():
                program(*inputs)
        except Exception as error:  # the compilers' exceptions share no base class
            raise _error("compile", error) from error
        if _agree(program, module, inputs):
            return program
    raise InputError(WRONG, where="torch.compile")


def ahead_of_time(
    module: nn.Module, inputs: tuple[torch.Tensor, ...], threads: int
) -> Callable[..., Any]:
    """Return the module compiled by AOTInductor to a shared library, which is loaded."""
    import torch

    for settings in _tried_settings(threads):
        program = _export(module, inputs)
        try:
            with tempfile.TemporaryDirectory() as folder, torch.no_grad():
                package = torch._inductor.aoti_compile_and_package(
                    program,
                    package_path=str(Path(folder) / "program.pt2"),
                    inductor_configs=settings,
                )
                loaded: Callable[..., Any] = torch._inductor.aoti_load_package(package)
        except Exception as error:  # the compilers' exceptions share no base class
            raise _error("compile", error) from error
        if _agree(loaded, module, inputs):
            return loaded
    raise InputError(WRONG, where="torch")


MODES: dict[str, Mode] = {
    "eager": eager,
    "export": exported,
    "compile": compiled,
    "aoti": ahead_of_time,
}


def compiler_options(threads: int) -> dict[str, str]:
    """Return the settings of PyTorch's compiler, as a table states them."""
    return {key: str(value) for key, value in _compiler_settings(threads).items()}


def require_compiler(runtime: str) -> None:
    """Check for the C++ compiler that PyTorch's compilers call on CPUs.

    Args:
        runtime: name of the runtime that needs it, for the error message.

    Raises:
        RuntimeMissingError: there is no C++ compiler.
    """
    # PyTorch's own search for the compiler would import modules that take seconds to load.
    name = os.environ.get("CXX", "clang++" if platform.system() == "Darwin" else "g++")
    if shutil.which(name) is None:
        raise RuntimeMissingError(
            "no C++ compiler", where=runtime, expected=name, mend="install it, or name one in CXX"
        )


def _compiler_settings(threads: int) -> dict[str, Any]:
    return {"cpp.threads": threads, "freezing": True}


def _tried_settings(threads: int) -> list[dict[str, Any]]:
    """The settings, and those without constant weights.

    With constant weights, PyTorch 2.13 lets a convolution overwrite an input that is read later.
    """
    settings = _compiler_settings(threads)
    return [settings, settings | {"freezing": False}]


def _agree(
    program: Callable[..., Any], module: nn.Module, inputs: tuple[torch.Tensor, ...]
) -> bool:
    """Whether a program returns what its module does, up to the rounding of its number format."""
    import torch

    with torch.inference_mode():
        found, expected = (_tensors(run(*inputs)) for run in (program, module))
    return all(
        torch.allclose(one.float(), other.float(), rtol=0.05, atol=0.05 * _largest(other))
        for one, other in zip(found, expected, strict=True)
    )


def _tensors(outputs: Any) -> tuple[torch.Tensor, ...]:
    return tuple(outputs) if isinstance(outputs, tuple | list) else (outputs,)


def _largest(values: torch.Tensor) -> float:
    return float(values.float().abs().amax()) if values.numel() else 0.0


def _export(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> Any:
    import torch

    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.export.export(module, inputs)
    except Exception as error:  # the exporter's exceptions share no base class
        raise _error("export", error) from error


def _error(what: str, error: Exception) -> InputError:
    return InputError(f"PyTorch cannot {what} the network: {first_line(error)}", where="torch")
