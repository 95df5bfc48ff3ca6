"""Packaging of hwnas: two top-level folders are installed inside the package."""

from setuptools import setup

setup(
    packages=[
        "hwnas",
        "hwnas.configs",
        "hwnas.datasets",
        "hwnas.kernels",
        "hwnas.latency_tables",
        "hwnas.spaces",
        "hwnas.strategies",
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
