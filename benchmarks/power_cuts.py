"""What a power cut may leave of a folder, from a trace of a program's file operations.

`trace` runs a command under strace and returns what it did to files. `Disk` replays that below a
folder and knows at each moment what a power cut may leave: written data stay uncertain until the
next fsync of their file, and may be lost, each write for itself, or be cut; names that were made,
renamed or removed stay uncertain until the next fsync of their folder, each for itself, and a
rename is done or not. File systems promise more, each something else; what survives here survives
on all of them. SQLite tests its commits in this way, and CrashMonkey (Mohan et al., OSDI 2018) file
systems.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

_STRING, _FILE, _BASE = r'"([^"]*)"', r"(\d+)<([^>]*)>", r"(?:AT_FDCWD|\d+)<([^>]*)>"
_CALLS = {
    "open": rf"openat\({_BASE}, {_STRING}, ([A-Z_|]+).*\) = (\d+)<.*>",
    "write": rf"write\({_FILE}, {_STRING}, \d+\) = (\d+)",
    "writev": rf"writev\({_FILE}, \[(.*)\], \d+\) = (\d+)",
    "pwrite": rf"pwrite64\({_FILE}, {_STRING}, \d+, (\d+)\) = (\d+)",
    "seek": rf"lseek\({_FILE}, .*\) = (\d+)",
    "sync": rf"f(?:data)?sync\({_FILE}\) = 0",
    "truncate": rf"ftruncate\({_FILE}, (\d+)\) = 0",
    "rename": rf"rename\({_STRING}, {_STRING}\) = 0",
    "link": rf"link\({_STRING}, {_STRING}\) = 0",
    "unlink": rf"(?:unlink|rmdir)\({_STRING}\) = 0",
    "unlinkat": rf"unlinkat\({_BASE}, {_STRING}.*\) = 0",
    "mkdir": rf"mkdir\({_STRING}.*\) = 0",
    "symlink": rf"symlink\({_STRING}, {_STRING}\) = 0",
}
_PATTERNS = {name: re.compile(rf"{pattern}$") for name, pattern in _CALLS.items()}
_TRACED = (
    "openat,write,pwrite64,writev,lseek,fsync,fdatasync,ftruncate,rename,renameat,renameat2,"
    "unlink,unlinkat,rmdir,mkdir,mkdirat,link,linkat,symlink,symlinkat"
)
LONGEST = 2**24
"""Bytes of the longest write that can be traced."""


@dataclass(frozen=True)
class Call:
    """A system call that succeeded: its kind, a key of the patterns, and what they captured."""

    kind: str
    values: tuple[str, ...]


def trace(command: Sequence[str], ends: Sequence[int] = (0,)) -> list[Call]:
    """Run a command; what it and its children did to files, in order.

    Args:
        command: the program and its arguments.
        ends: exit codes of commands that did not fail.

    Raises:
        subprocess.CalledProcessError: the command failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        strace = ["strace", "-ff", "-ttt", "-y", "-xx", "-s", str(LONGEST), "--seccomp-bpf"]
        strace += ["-e", f"trace={_TRACED}", "-e", "signal=none", "-e", "quiet=exit"]
        strace += ["-o", f"{folder}/calls"]
        done = subprocess.run([*strace, *command], capture_output=True)
        if done.returncode not in ends:
            done.check_returncode()
        lines = [
            line.split(" ", 1)
            for file in sorted(Path(folder).iterdir())
            for line in file.read_text().splitlines()
        ]
    lines.sort(key=lambda line: float(line[0]))
    return [call for _, text in lines for call in _parsed(text)]


def _parsed(text: str) -> list[Call]:
    """The call of a line of strace; none for calls that failed or move nothing on the disk."""
    if re.search(r" = (-1 |\?)", text) or "O_RDONLY" in text:
        return []
    for kind, pattern in _PATTERNS.items():
        if found := pattern.match(text):
            return [Call(kind, found.groups())]
    raise ValueError(f"not a line that is understood: {text[:200]}")


def _bytes(text: str) -> bytes:
    """A string of strace, whose characters are escaped."""
    return text.encode().decode("unicode_escape").encode("latin-1")


def _path(*parts: str) -> PurePosixPath:
    return PurePosixPath(*(_bytes(part).decode("utf-8", "surrogateescape") for part in parts))


@dataclass
class File:
    """A file's content on the disk, and what was written since.

    Attributes:
        content: what a running program reads.
        synced: what is on the disk.
        pending: writes since, as pairs of offset and data; None in place of data cuts the file.
    """

    content: bytearray = field(default_factory=bytearray)
    synced: bytes = b""
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)

    def write(self, offset: int, data: bytes | None) -> None:
        """Write data, or cut the file at the offset."""
        _apply(self.content, offset, data)
        self.pending.append((offset, data))

    def sync(self) -> None:
        """Bring everything to the disk."""
        self.synced = bytes(self.content)
        self.pending.clear()

    def remains(self, rng: np.random.Generator | None) -> bytes:
        """What a power cut may leave; by default the least."""
        left = bytearray(self.synced)
        if rng is None:
            return bytes(left)
        for offset, data in self.pending:
            if rng.random() < 0.5:
                cut = data and rng.random() < 0.5
                _apply(left, offset, data[: rng.integers(len(data))] if cut and data else data)
        return bytes(left)


def _apply(content: bytearray, offset: int, data: bytes | None) -> None:
    if data is None:
        del content[offset:]
    content.extend(bytes(max(0, offset - len(content))))
    if data is not None:
        content[offset : offset + len(data)] = data


@dataclass
class Folder:
    """A folder's names on the disk, and what happened to them since.

    Attributes:
        names: what a running program sees.
        synced: what is on the disk.
        pending: changes since; each sets some names at once, None for removed ones.
    """

    names: dict[str, Node] = field(default_factory=dict)
    synced: dict[str, Node] = field(default_factory=dict)
    pending: list[dict[str, Node | None]] = field(default_factory=list)

    def change(self, changes: dict[str, Node | None]) -> None:
        """Make, replace and remove names at once."""
        _set(self.names, changes)
        self.pending.append(changes)

    def sync(self) -> None:
        """Bring all names to the disk."""
        self.synced = dict(self.names)
        self.pending.clear()

    def remains(self, rng: np.random.Generator | None) -> dict[str, Node]:
        """The names that a power cut may leave; by default the least."""
        left = dict(self.synced)
        for changes in self.pending if rng is not None else ():
            if rng is not None and rng.random() < 0.5:
                _set(left, changes)
        return left


Node = File | Folder | str
"""A file, a folder, or the target of a symbolic link."""


def _set(names: dict[str, Node], changes: Mapping[str, Node | None]) -> None:
    for name, node in changes.items():
        if node is None:
            names.pop(name, None)
        else:
            names[name] = node


class Disk:
    """A folder on a disk, while a program works in it.

    Args:
        root: the folder, which is empty and on the disk at the beginning.
    """

    def __init__(self, root: Path) -> None:
        self.root = PurePosixPath(root)
        self.top = Folder()
        self._offsets: dict[tuple[str, int], int | None] = {}
        self._said: list[str] = []

    @property
    def said(self) -> str:
        """What the program has written to stderr."""
        return "".join(self._said)

    def do(self, call: Call) -> bool:
        """Replay a call; whether it could change what a power cut leaves."""
        if call.kind == "write" and call.values[0] == "2":
            self._said.append(_bytes(call.values[2]).decode("utf-8", "replace"))
            return False
        return bool(getattr(self, f"_{call.kind}")(*call.values))

    def write_remains(self, target: Path, rng: np.random.Generator | None) -> None:
        """Write what a power cut at this moment may leave to a new folder.

        Args:
            target: the folder to make.
            rng: chooses what is left of what was not on the disk; nothing is if None.
        """
        self._write_folder(self.top, target, rng)

    def _write_folder(self, folder: Folder, target: Path, rng: np.random.Generator | None) -> None:
        target.mkdir()
        for name, node in folder.remains(rng).items():
            if isinstance(node, Folder):
                self._write_folder(node, target / name, rng)
            elif isinstance(node, File):
                (target / name).write_bytes(node.remains(rng))
            else:
                (target / name).symlink_to(node)

    def _place(self, path: PurePosixPath) -> tuple[Folder, str] | None:
        """The folder and the name of a path below the root."""
        if not path.is_relative_to(self.root) or path == self.root:
            return None
        *above, name = path.relative_to(self.root).parts
        folder = self.top
        for part in above:
            found = folder.names.get(part)
            if not isinstance(found, Folder):
                return None
            folder = found
        return folder, name

    def _node(self, path: PurePosixPath) -> Node | None:
        if path == self.root:
            return self.top
        place = self._place(path)
        return None if place is None else place[0].names.get(place[1])

    def _file(self, text: str) -> File | None:
        node = self._node(_path(text))
        return node if isinstance(node, File) else None

    def _change(self, path: PurePosixPath, node: Node | None) -> bool:
        place = self._place(path)
        if place is not None:
            place[0].change({place[1]: node})
        return place is not None

    def _open(self, base: str, name: str, flags: str, descriptor: str) -> bool:
        path = _path(base, name)
        is_made = self._node(path) is None and "O_CREAT" in flags and self._change(path, File())
        file = self._node(path)
        if not isinstance(file, File):
            return False
        self._offsets[descriptor, id(file)] = None if "O_APPEND" in flags else 0
        is_cut = "O_TRUNC" in flags and bool(file.content)
        if is_cut:
            file.write(0, None)
        return is_made or is_cut

    def _write(self, descriptor: str, text: str, data: str, count: str) -> bool:
        file = self._file(text)
        if file is None:
            return False
        offset = self._offsets.get((descriptor, id(file)))
        at = len(file.content) if offset is None else offset
        file.write(at, _bytes(data)[: int(count)])
        if offset is not None:
            self._offsets[descriptor, id(file)] = at + int(count)
        return True

    def _writev(self, descriptor: str, text: str, vectors: str, count: str) -> bool:
        data = "".join(re.findall(r'iov_base="([^"]*)"', vectors))
        return self._write(descriptor, text, data, count)

    def _pwrite(self, descriptor: str, text: str, data: str, offset: str, count: str) -> bool:
        file = self._file(text)
        if file is not None:
            file.write(int(offset), _bytes(data)[: int(count)])
        return file is not None

    def _seek(self, descriptor: str, text: str, offset: str) -> bool:
        file = self._file(text)
        if file is not None and self._offsets.get((descriptor, id(file))) is not None:
            self._offsets[descriptor, id(file)] = int(offset)
        return False

    def _truncate(self, descriptor: str, text: str, size: str) -> bool:
        file = self._file(text)
        if file is None or len(file.content) == int(size):
            return False
        file.write(int(size), None)
        return True

    def _sync(self, descriptor: str, text: str) -> bool:
        node = self._node(_path(text))
        if isinstance(node, File | Folder):
            node.sync()
        return isinstance(node, File | Folder)

    def _rename(self, old: str, new: str) -> bool:
        source, target = _path(old), _path(new)
        node, places = self._node(source), (self._place(source), self._place(target))
        if node is None or None in places:
            return self._change(source, None) or self._change(target, node or File())
        (left, name), (entered, new_name) = (place for place in places if place is not None)
        if left is entered:
            left.change({name: None, new_name: node})
        else:
            entered.change({new_name: node})
            left.change({name: None})
        return True

    def _link(self, old: str, new: str) -> bool:
        node = self._node(_path(old))
        return node is not None and self._change(_path(new), node)

    def _unlink(self, text: str) -> bool:
        return self._change(_path(text), None)

    def _unlinkat(self, base: str, text: str) -> bool:
        return self._change(_path(base, text), None)

    def _mkdir(self, text: str) -> bool:
        return self._change(_path(text), Folder())

    def _symlink(self, target: str, text: str) -> bool:
        return self._change(_path(text), str(_path(target)))
