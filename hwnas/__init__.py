"""Hardware-aware neural architecture search under a latency budget.

Data, a device and a latency budget in; a checked ONNX model that keeps the budget out. The public
names are imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hwnas.architecture import Architecture, Mixture
    from hwnas.budget.cost import CostModel
    from hwnas.budget.decode import Decoder
    from hwnas.config import Config
    from hwnas.data.loading import load_dataset
    from hwnas.data.own_data import dataset_of
    from hwnas.deploy.export import export_network
    from hwnas.deploy.module_check import check
    from hwnas.errors import HwnasError
    from hwnas.estimators import (
        ImageClassifier,
        SignalClassifier,
        TabularClassifier,
        TabularRegressor,
        TextClassifier,
    )
    from hwnas.latency_tables.table import LatencyTable, OpSpec
    from hwnas.pipeline.configuration import load_config
    from hwnas.pipeline.own_model import search
    from hwnas.pipeline.profile import profile
    from hwnas.pipeline.result import Result, load
    from hwnas.pipeline.shrink import shrink
    from hwnas.pipeline.stages import run
    from hwnas.spaces import build_space, register_space
    from hwnas.spaces.traced.space import space_of

_MODULES = {
    "Architecture": "hwnas.architecture",
    "Config": "hwnas.config",
    "CostModel": "hwnas.budget.cost",
    "Decoder": "hwnas.budget.decode",
    "HwnasError": "hwnas.errors",
    "ImageClassifier": "hwnas.estimators",
    "LatencyTable": "hwnas.latency_tables.table",
    "Mixture": "hwnas.architecture",
    "OpSpec": "hwnas.latency_tables.table",
    "Result": "hwnas.pipeline.result",
    "SignalClassifier": "hwnas.estimators",
    "TabularClassifier": "hwnas.estimators",
    "TabularRegressor": "hwnas.estimators",
    "TextClassifier": "hwnas.estimators",
    "build_space": "hwnas.spaces",
    "check": "hwnas.deploy.module_check",
    "dataset_of": "hwnas.data.own_data",
    "export_network": "hwnas.deploy.export",
    "load": "hwnas.pipeline.result",
    "load_config": "hwnas.pipeline.configuration",
    "load_dataset": "hwnas.data.loading",
    "profile": "hwnas.pipeline.profile",
    "register_space": "hwnas.spaces",
    "run": "hwnas.pipeline.stages",
    "search": "hwnas.pipeline.own_model",
    "shrink": "hwnas.pipeline.shrink",
    "space_of": "hwnas.spaces.traced.space",
}

__all__ = [
    "Architecture",
    "Config",
    "CostModel",
    "Decoder",
    "HwnasError",
    "ImageClassifier",
    "LatencyTable",
    "Mixture",
    "OpSpec",
    "Result",
    "SignalClassifier",
    "TabularClassifier",
    "TabularRegressor",
    "TextClassifier",
    "build_space",
    "check",
    "dataset_of",
    "export_network",
    "load",
    "load_config",
    "load_dataset",
    "profile",
    "register_space",
    "run",
    "search",
    "shrink",
    "space_of",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version  # not for free

        return version("hwnas")
    if name not in _MODULES:
        raise AttributeError(f"module 'hwnas' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
