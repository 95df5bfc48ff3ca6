"""Packaging of hwnas: two top-level folders are installed inside the package."""

from setuptools import find_packages, setup

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
        "hwnas": ["py.typed"],
        "hwnas.configs": ["*.toml"],
        "hwnas.datasets": ["*.npz", "*.md"],
        "hwnas.latency_tables": ["*.json", "*.md"],
    },
)
