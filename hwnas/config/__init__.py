"""The configuration of a run: TOML in, frozen and typed settings out."""

from hwnas.config.data import DataConfig
from hwnas.config.deployment import CheckConfig, ExportConfig
from hwnas.config.reading import (
    DEFAULT_CONFIG,
    apply_overrides,
    config_name,
    load_config,
    parse_config,
    read_document,
    read_overrides,
    read_space_file,
    require_valid_keys,
    shipped_configs,
    with_absolute_paths,
)
from hwnas.config.recipe import RangeConfig
from hwnas.config.search import SearchConfig
from hwnas.config.sections import (
    BudgetConfig,
    Config,
    DeviceConfig,
    LatencyConfig,
    SpaceConfig,
    TrainConfig,
)
from hwnas.config.shrink import ShrinkConfig
from hwnas.config.task import TaskConfig

__all__ = [
    "DEFAULT_CONFIG",
    "BudgetConfig",
    "CheckConfig",
    "Config",
    "DataConfig",
    "DeviceConfig",
    "ExportConfig",
    "LatencyConfig",
    "RangeConfig",
    "SearchConfig",
    "ShrinkConfig",
    "SpaceConfig",
    "TaskConfig",
    "TrainConfig",
    "apply_overrides",
    "config_name",
    "load_config",
    "parse_config",
    "read_document",
    "read_overrides",
    "read_space_file",
    "require_valid_keys",
    "shipped_configs",
    "with_absolute_paths",
]
