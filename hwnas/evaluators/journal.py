"""Optuna's journal of a study, which stays readable after a write that failed half-way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

from hwnas.durable import append_lines

_START = b'{"op_code":'
"""What every line of a journal begins with."""


class DurableJournal(JournalFileBackend):
    """A journal file in which a line that was cut short does not spoil those after it.

    A full disk or a power cut may leave a part of a line at the end. Optuna would write the next
    one behind it, and no process could read the file any more.

    Args:
        path: the file; made if there is none.

    Raises:
        ValueError: the file holds something else, which is not to be overwritten.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        if self._path.exists():
            with self._path.open("rb") as file:
                start = file.read(len(_START))
            if start != _START[: len(start)]:
                raise ValueError("the file is not a journal of Optuna")
        self._writing = JournalFileSymlinkLock(path)
        super().__init__(path, self._writing)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        self._writing.acquire()
        try:
            append_lines(self._path, lines)
        finally:
            self._writing.release()
