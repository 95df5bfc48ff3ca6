"""Packaging of hwnas: two top-level folders are installed inside the package, and the C++ kernels.

The kernels are a plain shared library without Python's or PyTorch's interface, built once for each
instruction set. They are optional: without a compiler the package works, only slower.
"""

import platform
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

# Flags and bytes of a vector register. The first must stay the one that runs everywhere: where two
# object files define the same function, the linker takes the first.
INSTRUCTIONS = {"portable": ([], 16)}
if platform.machine().lower() in ("x86_64", "amd64"):
    INSTRUCTIONS["avx2"] = (["-mavx2", "-mfma"], 32)
    avx512 = ["-mavx512f", "-mavx512vl", "-mavx512dq", "-mavx512bw", "-mfma"]
    INSTRUCTIONS["avx512"] = ([*avx512, "-mprefer-vector-width=512"], 64)
FLAGS = ["-std=c++17", "-O3", "-g0", "-fPIC", "-fno-strict-aliasing", "-fno-math-errno"]
# The OpenMP runtime is PyTorch's, which is found when the library is loaded; hence not linked.
OPENMP = ["-fopenmp"]


class BuildKernels(build_ext):
    """Compiles the kernels once for each instruction set and links them into one library."""

    def build_extension(self, extension):
        compiler, folder = self.compiler, Path(self.build_temp)
        kernels, instructions = extension.sources
        objects = compiler.compile([instructions], str(folder), extra_postargs=FLAGS)

        def compile_for(name):
            flags, register_bytes = INSTRUCTIONS[name]
            return compiler.compile(
                [kernels],
                str(folder / name),
                macros=[("INSTRUCTIONS", name), ("REGISTER_BYTES", str(register_bytes))],
                extra_postargs=[*FLAGS, *OPENMP, *flags],
                depends=extension.depends,
            )

        with ThreadPoolExecutor() as threads:
            for compiled in threads.map(compile_for, INSTRUCTIONS):
                objects += compiled
        target = self.get_ext_fullpath(extension.name)
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        compiler.link_shared_object(objects, target, target_lang="c++")


setup(
    packages=[
        *find_packages(include=["hwnas", "hwnas.*"]),
        "hwnas.kernels",
        "hwnas.latency_tables",
    ],
    package_dir={
        "hwnas": "hwnas",
        "hwnas.kernels": "kernels",
        "hwnas.latency_tables": "latency_tables",
    },
    package_data={
        "hwnas": ["py.typed", "examples/*.yml", "examples/*.toml"],
        "hwnas.configs": ["*.toml"],
        "hwnas.datasets": ["*.npz", "*.md"],
        "hwnas.reporting": ["*.css", "*.js"],
        "hwnas.kernels": ["*.md"],
        "hwnas.latency_tables": ["*.json", "*.md", "data/*.json", "data/*.json.gz", "data/*.md"],
    },
    ext_modules=[
        Extension(
            "hwnas.kernels._cpu",
            sources=["kernels/cpu/kernels.cpp", "kernels/cpu/instructions.cpp"],
            depends=sorted(str(p) for p in Path("kernels/cpu").glob("*.h*")),
            optional=True,
        )
    ],
    cmdclass={"build_ext": BuildKernels},
)
