"""What importing the kernels costs."""

from __future__ import annotations

import subprocess
import sys

import torch

import hwnas.kernels.choice  # noqa: F401 - the module that the last test looks up


def test_importing_the_kernels_does_not_import_the_compiler() -> None:
    code = "import sys, hwnas.kernels; print([n for n in sys.modules if n == 'torch._dynamo'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_mark_of_constant_functions_is_that_of_pytorch() -> None:
    @torch.compiler.assume_constant_result
    def constant() -> int:
        return 1

    module = sys.modules["hwnas.kernels.choice"]
    assert vars(module._loading_error) == vars(constant)
