"""Command lines that run a command on a device, and what their failures mean.

SSH is the system's OpenSSH client, with the user's own configuration, agent, jump hosts and known
hosts. Host keys are verified strictly and nothing is ever asked for: what needs a password fails.
Connections to one device share one that is open (`ControlMaster`, ssh_config(5)).
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import stat
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from hwnas.errors import DeviceError, RuntimeMissingError, printable
from hwnas.latency_tables.remote.inventory import Device

CONNECT_S = 10
KEPT_OPEN_S = 60
LONGEST_FOLDER = 40
"""Characters of a folder of sockets; the whole path of a socket may have about a hundred."""
TOO_OLD, CHANGED, CUT_SHORT = 96, 97, 98
"""Exit codes of the launcher in `connection`."""
BOOTING = "is booting up"
"""Part of what Linux says to logins before it has started, in pam_nologin(8)."""


class DeviceLostError(DeviceError):
    """The connection to a device ended; it may be possible to connect again."""


class Transport(ABC):
    """A way to run commands on a device."""

    def __init__(self, device: Device) -> None:
        """Keep the device, without connecting to it."""
        self.device = device

    @abstractmethod
    def command(self, words: Sequence[str]) -> list[str]:
        """Return the local command line that runs a command there, connected to its pipes."""

    @abstractmethod
    def by_hand(self, command: str) -> str:
        """Return what a person types to run a command there."""

    def reset(self) -> None:  # noqa: B027  # most transports have none
        """Forget a shared connection that may be broken."""

    def failure(self, code: int, errors: str) -> DeviceError:
        """Return the error of a command that ended before it answered.

        Args:
            code: the local command's exit code.
            errors: what it wrote to stderr.
        """
        name, python = self.device.name, shlex.join(self.device.words)
        last = printable((errors.strip().splitlines() or [f"exit code {code}"])[-1])
        match code:
            case 127:
                return DeviceError(
                    "no such Python on the device",
                    where=name,
                    actual=python,
                    mend="install Python 3.8 or later there, or name it by `python`",
                )
            case 126:
                return DeviceError(
                    "the device cannot run this Python, which may be of another architecture",
                    where=name,
                    actual=f"{python} ({last})",
                    mend="name another by `python` in devices.toml",
                )
            case _ if code == TOO_OLD:
                return DeviceError(
                    "the Python on the device is too old",
                    where=name,
                    expected="3.8 or later",
                    actual=python,
                    mend="name another by `python` in devices.toml",
                )
            case _ if code == CHANGED:
                return DeviceError("the script arrived changed on the device", where=name)
        return self._own_failure(code, errors, last)

    @abstractmethod
    def _own_failure(self, code: int, errors: str, last: str) -> DeviceError:
        """Return the error of the transport itself."""


class Ssh(Transport):
    """The system's OpenSSH client."""

    def command(self, words: Sequence[str]) -> list[str]:
        """See `Transport.command`."""
        options = {
            "BatchMode": "yes",
            "StrictHostKeyChecking": "yes",
            "ConnectTimeout": str(CONNECT_S),
            "ServerAliveInterval": "5",
            "ServerAliveCountMax": "3",
            "ControlMaster": "auto",
            "ControlPersist": str(KEPT_OPEN_S),
            "ControlPath": str(_sockets() / "%C"),
        }
        settings = [part for key, value in options.items() for part in ("-o", f"{key}={value}")]
        remote = " ".join(quoted(word) for word in words)
        return ["ssh", "-T", *settings, *self._login(), "--", str(self.device.host), remote]

    def by_hand(self, command: str) -> str:
        """See `Transport.by_hand`."""
        return " ".join(["ssh", *self._login(), str(self.device.host), command]).strip()

    def _login(self) -> list[str]:
        port = [] if self.device.port is None else ["-p", str(self.device.port)]
        return port + ([] if self.device.user is None else ["-l", self.device.user])

    def reset(self) -> None:
        """See `Transport.reset`."""
        command = self.command([])
        command[1:2] = ["-O", "exit"]
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(command[:-1], capture_output=True, timeout=CONNECT_S, check=False)

    def _own_failure(self, code: int, errors: str, last: str) -> DeviceError:
        name, login = self.device.name, self.by_hand("")
        if "REMOTE HOST IDENTIFICATION HAS CHANGED" in errors:
            return DeviceError(
                "the device has another host key than the one that is known",
                where=name,
                mend="make sure that it is the same device, then remove the old key with "
                f"`ssh-keygen -R {self.device.host}` and log in once with `{login}`",
            )
        if "Host key verification failed" in errors:
            return DeviceError(
                "the device's host key is not known",
                where=name,
                mend=f"log in once with `{login}` and compare the key",
            )
        if "Permission denied" in errors and code == 255 and BOOTING not in errors:
            return DeviceError(
                "the device refuses the login",
                where=name,
                actual=last,
                mend=f"`{login}` has to work without a password: see ssh-copy-id(1)",
            )
        if code == 255:
            return DeviceLostError("the device cannot be reached", where=name, actual=last)
        return DeviceLostError("the process on the device ended", where=name, actual=last)


class Adb(Transport):
    """Android's debug bridge, for a Python that the device's shell can start."""

    def command(self, words: Sequence[str]) -> list[str]:
        """See `Transport.command`."""
        remote = " ".join(quoted(word) for word in words)
        return ["adb", "-s", str(self.device.serial), "shell", "-T", remote]

    def by_hand(self, command: str) -> str:
        """See `Transport.by_hand`."""
        return f"adb -s {self.device.serial} shell {command}".strip()

    def _own_failure(self, code: int, errors: str, last: str) -> DeviceError:
        if "unauthorized" in errors:
            return DeviceError(
                "the device has not allowed this computer to debug it",
                where=self.device.name,
                mend="confirm the question on its screen",
            )
        if code and ("not found" in errors or "offline" in errors or "no devices" in errors):
            return DeviceLostError(
                "the device cannot be reached",
                where=self.device.name,
                actual=last,
                mend="`adb devices` lists those that can",
            )
        return DeviceLostError(
            "the process on the device ended", where=self.device.name, actual=last
        )


class Here(Transport):
    """This machine, where a browser needs no transport."""

    def command(self, words: Sequence[str]) -> list[str]:
        """See `Transport.command`."""
        return list(words)

    def by_hand(self, command: str) -> str:
        """See `Transport.by_hand`."""
        return command

    def _own_failure(self, code: int, errors: str, last: str) -> DeviceError:
        return DeviceLostError("the process has ended", where=self.device.name, actual=last)


def transport_to(device: Device) -> Transport:
    """Return the transport that a device states."""
    kinds: dict[str, type[Transport]] = {"ssh": Ssh, "adb": Adb, "browser": Here}
    return kinds[device.transport](device)


def require_program(program: str, device: str) -> None:
    """Check that the transport's program is installed here.

    Raises:
        RuntimeMissingError: it is not.
    """
    if shutil.which(program) is None:
        package = {"ssh": "openssh-client", "adb": "adb"}[program]
        raise RuntimeMissingError(
            f"the program {program} is not installed",
            where=device,
            mend=f"install it, as with `apt-get install {package}`",
        )


def quoted(word: str) -> str:
    """Return a word for the device's shell, in which only a leading `~/` has a meaning."""
    if word.startswith("~/"):
        return '"$HOME"/' + shlex.quote(word[2:])
    return shlex.quote(word)


def _sockets() -> Path:
    """A folder of this user for the sockets of shared connections; their paths must be short."""
    folder = os.environ.get("XDG_RUNTIME_DIR") or ""
    if not 0 < len(folder) <= LONGEST_FOLDER:
        folder = tempfile.gettempdir()
    path = Path(folder) / f"hwnas-ssh-{os.getuid()}"
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) != 0o700:
        raise DeviceError("a folder that others can write to", where=str(path), mend="remove it")
    return path
