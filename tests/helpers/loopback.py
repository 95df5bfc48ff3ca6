"""An OpenSSH server on the loopback address, and a Python with onnxruntime and numpy alone.

The server runs as an ordinary user. Where the tests run as root, that user exists only inside the
server, by libnss_wrapper (Debian's package libnss-wrapper).
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy
import onnxruntime
import pytest
import tomli_w

SSHD = shutil.which("sshd") or "/usr/sbin/sshd"
WRAPPER = next(Path("/usr/lib").glob("*/libnss_wrapper.so"), None)
ORDINARY_USER = 65534
NAME = "board"


@dataclass
class Server:
    """A running server.

    Attributes:
        port: on the loopback address.
        user: whom it lets in.
        folder: has the keys, the home folder and the known hosts.
        process: the server.
    """

    port: int
    user: str
    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def start(self) -> None:
        """Start the server, with the keys and the port that it had before."""
        command, environment = [SSHD, "-D", "-e", "-f", str(self.folder / "sshd_config")], {}
        options = {}
        if os.getuid() == 0:
            options = {"user": ORDINARY_USER, "group": ORDINARY_USER, "extra_groups": []}
            environment = {
                "LD_PRELOAD": str(WRAPPER),
                "NSS_WRAPPER_PASSWD": str(self.folder / "passwd"),
                "NSS_WRAPPER_GROUP": str(self.folder / "group"),
            }
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command, env=os.environ | environment, stderr=log, start_new_session=True, **options
            )
        end = time.monotonic() + 10
        while time.monotonic() < end:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            time.sleep(0.05)
        raise AssertionError((self.folder / "log").read_text())

    def stop(self) -> None:
        """End the server with all its connections, as when the machine is switched off."""
        for process in [*_descendants(self.process.pid), self.process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self.process.wait()

    def scripts(self) -> list[int]:
        """The processes that run this server's Python."""
        return [p for p in _processes() if str(self.folder / "python") in _command(p)]


def _processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").glob("[0-9]*")]


def _command(process: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return ""


def _descendants(process: int) -> list[int]:
    """The processes that a process has started, and those that they have started."""
    parents = {}
    for child in _processes():
        with contextlib.suppress(OSError):
            stat = Path(f"/proc/{child}/stat").read_text()
            parents[child] = int(stat.rpartition(")")[2].split()[1])
    found = [process]
    for known in found:
        found += [child for child, parent in parents.items() if parent == known]
    return found[1:]


def serve(folder: Path) -> Server:
    """Make keys and settings in a folder, and start a server."""
    if not Path(SSHD).exists() or (os.getuid() == 0 and WRAPPER is None):
        reason = "no OpenSSH server: apt-get install openssh-server libnss-wrapper"
        if os.environ.get("HWNAS_SSHD") == "required":
            pytest.fail(reason)
        pytest.skip(reason)
    user, uid, gid = getpass.getuser(), os.getuid(), os.getgid()
    if uid == 0:
        user, uid, gid = NAME, ORDINARY_USER, ORDINARY_USER
    home = folder / "home"
    home.mkdir()
    (folder / "passwd").write_text(f"{user}:x:{uid}:{gid}::{home}:/bin/sh\n")
    (folder / "group").write_text(f"{user}:x:{gid}:\n")
    for name in ("host_key", "user_key"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(command, check=True)
    (folder / "authorized_keys").write_text((folder / "user_key.pub").read_text())
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        port = chosen.getsockname()[1]
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host_key\n"
        f"AuthorizedKeysFile {folder}/authorized_keys\nPidFile none\nUsePAM no\n"
        "StrictModes no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
    )
    key = " ".join((folder / "host_key.pub").read_text().split()[:2])
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {key}\n")
    if os.getuid() == 0:
        for path in (folder, home, folder / "host_key"):
            os.chown(path, uid, gid)
    server = Server(port, user, folder, None)  # type: ignore[arg-type]
    server.start()
    return server


def client_config(server: Server) -> Path:
    """A program `ssh` in front of the path: the real one, with the keys of the tests."""
    folder = server.folder / "bin"
    folder.mkdir(exist_ok=True)
    program = folder / "ssh"
    settings = {
        "IdentityFile": server.folder / "user_key",
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        "UserKnownHostsFile": server.folder / "known_hosts",
        "GlobalKnownHostsFile": "/dev/null",
    }
    config = server.folder / "ssh_config"
    config.write_text("".join(f"{key} {value}\n" for key, value in settings.items()))
    program.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {config} "$@"\n')
    program.chmod(0o755)
    return folder


def bare_python(folder: Path, leave_out: tuple[str, ...] = ()) -> Path:
    """A virtual environment with onnxruntime and numpy alone, whose files are those of this one.

    They are linked one by one, since an ordinary user may not reach this environment's folder.
    """
    subprocess.run([_interpreter(), "-m", "venv", "--without-pip", str(folder)], check=True)
    packages = next(folder.glob("lib/python*/site-packages"))
    for module in (numpy, onnxruntime):
        source = Path(module.__file__).parent
        if module.__name__ in leave_out:
            continue
        libraries = source.with_name(f"{source.name}.libs")
        for folder_of_files in filter(Path.exists, (source, libraries)):
            target = packages / folder_of_files.name
            shutil.copytree(folder_of_files, target, copy_function=_link_or_copy)
    return folder / "bin" / "python"


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _interpreter() -> str:
    """A Python of this version that other users may run: root's own may lie in its home."""
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for path in (Path(sys.base_prefix) / "bin" / name, Path("/usr/bin") / name):
        folders = path.resolve().parents
        if path.exists() and (os.getuid() or all(f.stat().st_mode & 0o001 for f in folders)):
            return str(path)
    pytest.skip(f"no {name} that an ordinary user can run")


def write_device(project: Path, server: Server, **changes: object) -> None:
    """Write a `devices.toml` that names the server, with other settings where they are stated."""
    stated = {
        "host": "127.0.0.1",
        "port": server.port,
        "user": server.user,
        "python": str(server.folder / "python" / "bin" / "python"),
    }
    (project / "devices.toml").write_text(tomli_w.dumps({NAME: stated | changes}))


@contextlib.contextmanager
def open_folder() -> Iterator[Path]:
    """A temporary folder that other users may enter."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder
