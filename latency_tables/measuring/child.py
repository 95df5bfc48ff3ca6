"""Calling a function in a fresh process that ends with its parent.

Python's own process pools import the caller's main module again in the new process, so that a
script without `if __name__ == "__main__"` would run a second time. Here the process has an entry
point of its own and imports nothing but the function's module.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import BinaryIO, ParamSpec, TypeVar

from hwnas.errors import HwnasError

P = ParamSpec("P")
R = TypeVar("R")


class ChildEndedError(HwnasError):
    """The process ended before it returned anything, for instance because a limit killed it."""


def call_in_child(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call a function in a fresh process and return what it returns.

    The process is killed when this one ends, however it ends, or when an exception, such as that
    of a signal, leaves this call.

    Args:
        function: defined at the top level of a module that can be imported.
        *args: picklable arguments of the function.
        **kwargs: picklable arguments of the function.

    Raises:
        ChildEndedError: the process ended without a result.
        Exception: whatever the function raised.
    """
    path, request = pickle.dumps(sys.path), pickle.dumps((function, args, kwargs))
    command = [sys.executable, "-P", "-m", __name__]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None and process.stdout is not None
    try:
        try:
            for part in (path, request):
                process.stdin.write(len(part).to_bytes(8) + part)
            process.stdin.flush()
        except BrokenPipeError:
            raise ChildEndedError("the process ended at its start") from None
        # The pipe to the child stays open: its end tells the child that this process is gone.
        answer = process.stdout.read()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
    if not answer:
        raise ChildEndedError("the process ended before it returned a result")
    failed, value = pickle.loads(answer)
    if failed:
        raise value
    result: R = value
    return result


def main() -> None:
    """Answer one call: read it from stdin, write what came of it to stdout."""
    # The parent decides what an interruption means for this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    # What libraries print must not get between the answers.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    sys.path[:] = pickle.loads(_part(requests))
    request = _part(requests)
    threading.Thread(target=_exit_with_parent, args=[requests.fileno()], daemon=True).start()
    try:
        function, args, kwargs = pickle.loads(request)
        answer = pickle.dumps((False, function(*args, **kwargs)))
    except Exception as error:  # the parent raises it
        answer = _pickled(error)
    answers.write(answer)
    answers.flush()
    os._exit(0)


def _part(requests: BinaryIO) -> bytes:
    """One of the parts that the parent wrote: its size, then its bytes."""
    return requests.read(int.from_bytes(requests.read(8)))


def _pickled(error: Exception) -> bytes:
    """An exception as an answer; one that cannot be pickled becomes a RuntimeError."""
    try:
        answer = pickle.dumps((True, error))
        pickle.loads(answer)
    except Exception:  # exceptions may refuse pickling in many ways
        return pickle.dumps((True, RuntimeError(f"{type(error).__name__}: {error}")))
    return answer


def _exit_with_parent(descriptor: int) -> None:
    """End this process once the other end of the pipe is closed."""
    while os.read(descriptor, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
