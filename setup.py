"""Packaging of hwnas: two top-level folders are installed inside the package, and the C++ kernels.

The kernels are a plain shared library without Python's or PyTorch's interface, built once for each
instruction set. They are optional: without a compiler the package works, only slower.
"""

import os
import platform
from concurrent.futures import ThreadPoolExecutor
from contextlib import chdir
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

# Flags and bytes of a vector register. The first must stay the one that runs everywhere: where two
# object files define the same function, the linker takes the first.
INSTRUCTIONS = {"portable": ([], 16)}
if platform.machine().lower() in ("x86_64", "amd64"):
    INSTRUCTIONS["avx2"] = (["-mavx2", "-mfma"], 32)
    avx512 = ["-mavx512f", "-mavx512vl", "-mavx512dq", "-mavx512bw", "-mfma"]
    INSTRUCTIONS["avx512"] = ([*avx512, "-mprefer-vector-width=512"], 64)
FLAGS = ["-std=c++17", "-O3", "-g0", "-fPIC", "-fno-strict-aliasing", "-fno-math-errno"]
# The OpenMP runtime is PyTorch's, which is found when the library is loaded; hence not linked.
# Apple's compiler takes the second form, with Homebrew's header. Without OpenMP one thread runs.
OPENMP = (
    ["-fopenmp"],
    ["-Xpreprocessor", "-fopenmp", "-I/opt/homebrew/opt/libomp/include"],
    ["-Xpreprocessor", "-fopenmp", "-I/usr/local/opt/libomp/include"],
    [],
)
OPENMP_PROBE = """#include <omp.h>
#ifndef _OPENMP
#error OpenMP is off
#endif
int probe() { return omp_get_thread_num(); }
"""


class BuildKernels(build_ext):
    """Compiles the kernels once for each instruction set and links them into one library."""

    def build_extension(self, extension: Extension) -> None:
        compiler, folder = self.compiler, Path(self.build_temp)
        kernels, instructions = extension.sources
        objects = compiler.compile([instructions], str(folder), extra_postargs=FLAGS)
        openmp = self.openmp_flags()

        def compile_for(name: str) -> list[str]:
            flags, register_bytes = INSTRUCTIONS[name]
            try:
                return compiler.compile(
                    [kernels],
                    str(folder / name),
                    macros=[("INSTRUCTIONS", name), ("REGISTER_BYTES", str(register_bytes))],
                    extra_postargs=[*FLAGS, *openmp, *flags],
                    depends=extension.depends,
                )
            except CompileError:
                if not flags:
                    raise
                # A compiler for another processor than this one's, or one that is too old.
                self.warn(f"the kernels are built without {name}: the compiler refuses {flags}")
                return []

        with ThreadPoolExecutor() as threads:
            for compiled in threads.map(compile_for, INSTRUCTIONS):
                objects += compiled
        target = self.get_ext_fullpath(extension.name)
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        compiler.link_shared_object(objects, target, target_lang="c++")

    def openmp_flags(self) -> list[str]:
        """The first of `OPENMP` that the compiler accepts."""
        probe = Path(self.build_temp) / "openmp_probe.cpp"
        probe.parent.mkdir(parents=True, exist_ok=True)
        probe.write_text(OPENMP_PROBE)
        for flags in OPENMP[:-1]:
            try:
                # An object file lies below the output folder at its source's path: a relative one.
                with chdir(probe.parent):
                    self.compiler.compile([probe.name], extra_postargs=[*FLAGS, *flags])
            except CompileError:
                continue
            return flags
        self.warn("the kernels are built for one thread: the compiler has no OpenMP")
        return OPENMP[-1]


REQUIREMENTS = [
    "torch>=2.11,<2.14",
    "onnx>=1.21",
    "onnxscript>=0.6",
    "numpy>=2.0",
    "scipy>=1.13",
    "safetensors>=0.5",
    "Pillow>=11",
    "soundfile>=0.13",
    "soxr>=0.5",
    "pydantic>=2.10",
    "tomli-w>=1.2",
    "typer>=0.29",
    "rich>=13.9",
    "optuna>=5",
    "torchmetrics>=1.9",
]
GPU_REQUIREMENTS = ["onnxruntime-gpu>=1.27", "triton>=3.6,<3.8"]
CPU_REQUIREMENTS = ["onnxruntime>=1.27"]


def has_gpu() -> bool:
    """Whether to install what runs on NVIDIA GPUs: HWNAS_GPU=1 or 0, or whether there is a driver.

    ONNX Runtime has one package for each, of which only one can be installed, and those for GPUs
    are a gigabyte larger.
    """
    stated = os.environ.get("HWNAS_GPU")
    if stated is not None:
        return stated == "1"
    supported = platform.machine() == "x86_64" and platform.system() == "Linux"
    return supported and Path("/dev/nvidiactl").exists()


def subpackages(folder: str) -> dict[str, str]:
    """A top-level folder and its packages, by the name that they are installed under."""
    names = [folder, *(f"{folder}.{name}" for name in find_packages(folder))]
    return {f"hwnas.{name}": name.replace(".", "/") for name in names}


INSTALLED_AS = subpackages("kernels") | subpackages("latency_tables")

setup(
    install_requires=[*REQUIREMENTS, *(GPU_REQUIREMENTS if has_gpu() else CPU_REQUIREMENTS)],
    packages=[
        *find_packages(include=["hwnas", "hwnas.*"]),
        *INSTALLED_AS,
    ],
    package_dir={"hwnas": "hwnas", **INSTALLED_AS},
    package_data={
        "hwnas": ["py.typed"],
        "hwnas.configs": ["*.toml"],
        "hwnas.deploy.microcontroller": ["*.c"],
        "hwnas.datasets": ["*.npz", "*.md"],
        "hwnas.spaces": ["*.toml"],
        "hwnas.reporting": ["*.css", "*.js", "catalogue.json"],
        "hwnas.kernels": ["*.md"],
        "hwnas.latency_tables.on_device": ["*.js"],
        "hwnas.latency_tables": ["*.json", "*.md", "data/*.json", "data/*.json.gz", "data/*.md"],
    },
    ext_modules=[
        Extension(
            "hwnas.kernels.cpu._library",
            sources=["kernels/cpu/src/kernels.cpp", "kernels/cpu/src/instructions.cpp"],
            depends=sorted(str(p) for p in Path("kernels/cpu/src").glob("*.h*")),
            optional=True,
        )
    ],
    cmdclass={"build_ext": BuildKernels},
)
