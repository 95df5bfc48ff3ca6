"""The devices that have names: `devices.toml` in the project, and the user's own one."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from hwnas.errors import InputError, did_you_mean
from hwnas.latency_tables.files import input_error, write_atomic

FILE = "devices.toml"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
Word = Annotated[str, Field(min_length=1, max_length=500)]


class Device(BaseModel):
    """A device that is elsewhere: how it is reached, and what runs networks on it.

    A device with `members` is a pool of equal devices, which measure in parallel.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: Word = Field(exclude=True)
    transport: Literal["ssh", "adb", "browser"] = Field(
        "ssh", description="how the device is reached; `browser` is a page on this machine"
    )
    host: Word | None = Field(
        None, description="host name, address, or an alias of the SSH configuration"
    )
    user: Word | None = Field(None, description="user name; by default that of the SSH client")
    port: Annotated[int, Field(ge=1, le=65535)] | None = Field(None, description="of its server")
    serial: Word | None = Field(None, description="of an Android device, as `adb devices` says")
    package: Word | None = Field(
        None, description="folder of the npm package onnxruntime-web, for a browser"
    )
    python: Word | Annotated[list[Word], Field(min_length=1)] = Field(
        "python3", description="the interpreter there, or a command of several words that starts it"
    )
    runtime: Word = Field("onnxruntime-cpu", description="the runtime that networks run on")
    threads: Annotated[int, Field(ge=1, le=1024)] = Field(1, description="threads of the runtime")
    cpus: list[Annotated[int, Field(ge=0)]] | None = Field(
        None, description="processors that the runtime may use; by default all"
    )
    governor: Word | None = Field(
        None, description="the frequency governor that has to be set; it is read, never changed"
    )
    workdir: Word = Field("~/.cache/hwnas", description="folder there that keeps models")
    disk_mb: Annotated[float, Field(gt=0)] = Field(
        1000.0, description="limit of that folder; the models used least recently make room"
    )
    members: list[Word] = Field(default_factory=list, description="of a pool: names of devices")

    @field_validator("host", "user", "serial")
    @classmethod
    def _is_no_option(cls, value: str | None) -> str | None:
        if value is not None and (value.startswith("-") or not value.isprintable()):
            raise ValueError("begins with a hyphen or holds control characters")
        return value

    @model_validator(mode="after")
    def _can_be_reached(self) -> Device:
        if self.transport == "browser" and not self.members:
            return self
        needed = {"ssh": "host", "adb": "serial", "browser": "transport"}[self.transport]
        if (getattr(self, needed) is None) == (not self.members):
            raise ValueError(f"state either {needed}, or the members of a pool")
        return self

    @property
    def words(self) -> list[str]:
        """The command that starts Python there."""
        return [self.python] if isinstance(self.python, str) else self.python


def inventory_files() -> list[Path]:
    """The files that name devices; a later one takes precedence."""
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return [home / "hwnas" / FILE, Path(FILE)]


def read_inventory() -> dict[str, Device]:
    """Read all devices, by name.

    Raises:
        InputError: a file is malformed; names the file, the device and the key.
    """
    devices: dict[str, Device] = {}
    for path in inventory_files():
        devices |= _read(path)
    for device in devices.values():
        for member in device.members:
            if member not in devices or devices[member].members:
                raise InputError(
                    "a pool has a member that is no device",
                    where=f"{FILE}: {device.name}.members",
                    expected=f"one of {_names(d for d in devices if not devices[d].members)}",
                    actual=member,
                )
    return devices


def find_device(name: str) -> Device:
    """Return the device of a name.

    Raises:
        InputError: there is none, or a file is malformed.
    """
    devices = read_inventory()
    if name not in devices:
        raise InputError(
            "no such device",
            where="device name",
            expected=f"one of {_names(devices)}" if devices else f"a table of {FILE}",
            actual=name,
            mend=did_you_mean(name, devices) or f"`hwnas devices add {name} --host HOST` adds it",
        )
    return devices[name]


def add_device(path: Path, name: str, settings: dict[str, Any]) -> Device:
    """Append a device to a file, whose other lines stay as they are.

    Args:
        path: the file; it is made if it is missing.
        name: the new device's name.
        settings: the keys of `Device` that are stated.

    Raises:
        InputError: the name or a setting is not valid, or the file has the name already.
    """
    device = _device(name, settings, path)
    if name in _read(path):
        raise InputError(
            "a device of this name is there already",
            where=str(path),
            actual=name,
            mend="choose another name, or change its table in the file",
        )
    text = path.read_text("utf-8").rstrip("\n") + "\n\n" if path.exists() else ""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, text + tomli_w.dumps({name: settings}))
    return device


def _read(path: Path) -> dict[str, Device]:
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise InputError("cannot be read as TOML", where=str(path), actual=error) from None
    return {name: _device(name, settings, path) for name, settings in document.items()}


def _device(name: str, settings: Any, path: Path) -> Device:
    if not NAME.fullmatch(name):
        raise InputError(
            "not a name of a device",
            where=str(path),
            expected="letters, digits, dots, hyphens and underscores",
            actual=name,
        )
    if not isinstance(settings, dict):
        raise InputError("not a table", where=f"{path}: {name}", expected=f"[{name}]")
    try:
        return Device(name=name, **settings)
    except ValidationError as error:
        found = input_error(error, path)
        raise InputError(f"{name}: {found.cause}", where=found.where, mend=found.mend) from None
    except TypeError:
        raise InputError("unknown key", where=f"{path}: {name}.name") from None


def _names(names: Any) -> str:
    return ", ".join(sorted(names))
