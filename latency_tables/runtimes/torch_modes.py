"""What PyTorch can make of a module before it is called."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hwnas.errors import InputError, RuntimeMissingError, first_line

if TYPE_CHECKING:
    import torch
    from torch import nn

Mode = Callable[["nn.Module", tuple["torch.Tensor", ...], int], Callable[..., Any]]
"""Makes of a module in eval mode, example inputs and a number of threads what is called.

It raises InputError where PyTorch cannot do that.
"""


def eager(module: nn.Module, inputs: tuple[torch.Tensor, ...], threads: int) -> Callable[..., Any]:
    """The module as it is."""
    return module


def exported(
    module: nn.Module, inputs: tuple[torch.Tensor, ...], threads: int
) -> Callable[..., Any]:
    """The operators that the module runs, in a row, for the shapes of `inputs`."""
    return _export(module, inputs).module()


def compiled(
    module: nn.Module, inputs: tuple[torch.Tensor, ...], threads: int
) -> Callable[..., Any]:
    """`torch.compile` of the exported program, with weights as constants.

    Compiled functions are kept by the code that they come from, a few for each; modules of one
    class share their code, exported programs do not. What cannot be compiled is an error, it is
    not run eagerly instead.
    """
    import torch

    program = torch.compile(exported(module, inputs, threads), fullgraph=True, dynamic=False)
    try:
        # As `options` the settings would not reach what decides whether weights are constants.
        with torch._inductor.config.patch(_compiler_settings(threads)), torch.inference_mode():
            program(*inputs)
    except Exception as error:  # the compilers' exceptions share no base class
        raise _refusal("compile", error) from error
    return program


def ahead_of_time(
    module: nn.Module, inputs: tuple[torch.Tensor, ...], threads: int
) -> Callable[..., Any]:
    """A shared library by AOTInductor, loaded."""
    import torch

    program = _export(module, inputs)
    try:
        with tempfile.TemporaryDirectory() as folder, torch.no_grad():
            package = torch._inductor.aoti_compile_and_package(
                program,
                package_path=os.path.join(folder, "program.pt2"),
                inductor_configs=_compiler_settings(threads),
            )
            return torch._inductor.aoti_load_package(package)
    except Exception as error:  # the compilers' exceptions share no base class
        raise _refusal("compile", error) from error


MODES: dict[str, Mode] = {
    "eager": eager,
    "export": exported,
    "compile": compiled,
    "aoti": ahead_of_time,
}


def compiler_options(threads: int) -> dict[str, str]:
    """The settings of PyTorch's compiler, as a table states them."""
    return {key: str(value) for key, value in _compiler_settings(threads).items()}


def require_compiler(runtime: str) -> None:
    """Check for the C++ compiler that PyTorch's compilers call on CPUs.

    Raises:
        RuntimeMissingError: there is none; names the runtime that needs it.
    """
    # What PyTorch looks for; asking it would import its compilers, which takes seconds.
    name = os.environ.get("CXX", "clang++" if platform.system() == "Darwin" else "g++")
    if shutil.which(name) is None:
        raise RuntimeMissingError(
            "no C++ compiler", where=runtime, expected=name, mend="install it, or name one in CXX"
        )


def _compiler_settings(threads: int) -> dict[str, Any]:
    return {"cpp.threads": threads, "freezing": True}


def _export(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> Any:
    import torch

    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.export.export(module, inputs)
    except Exception as error:  # the exporter's exceptions share no base class
        raise _refusal("export", error) from error


def _refusal(what: str, error: Exception) -> InputError:
    return InputError(f"PyTorch cannot {what} the network: {first_line(error)}", where="torch")
