"""The cause in an error message of ONNX Runtime, without the places in its sources."""

from __future__ import annotations

import re

_PREFIX = re.compile(r"^\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ")
_STACK = re.compile(r"\s*Stacktrace:.*")
_RUNNING = re.compile(
    r"Non-zero status code returned while running (?P<op>\S+) node\. "
    r"Name:'(?P<name>.*?)' Status Message: "
)
_NOISE = re.compile(
    r"Error in execution: |This is an invalid model\. |"
    r"Exception (?:during (?:initialization|loading)|caught): "
)
_SOURCE = re.compile(r"(?:\S*/)?[\w.+-]+\.(?:cc|cpp|cu|cuh|h|hpp|inc):\d+:?\s+")
_SIGNATURE = re.compile(
    r"^(?:[^()]*\([^()]*\)(?: const)?(?: \[with [^\]]*\])?|[A-Za-z_]\w*)\s+(?=\S)"
)
_CONDITION = re.compile(r"^.{1,300}? was false\.\s+(?=\S)")


def cause_of(error: BaseException | str) -> str:
    """The cause in an error of ONNX Runtime, as one line.

    Codes, file names and functions of the library's sources are left out; the operator and the
    node stay. Another exception's text stays as it is, on one line.

    Args:
        error: the exception, or its text.
    """
    text = " ".join(str(error).split()) or type(error).__name__
    text = _PREFIX.sub("", _STACK.sub("", text))
    text = _NOISE.sub("", text)
    found = _RUNNING.search(text)
    node = ""
    if found is not None:
        name = f" {found['name']!r}" if found["name"] else ""
        node, text = f"{found['op']} node{name}: ", text[found.end() :]
    return node + _without_source(text)


def _without_source(text: str) -> str:
    """A message without the place in the sources, its function, and the condition that failed."""
    found = _SOURCE.search(text)
    if found is None:
        return text
    before, message = text[: found.start()], text[found.end() :]
    message = _SIGNATURE.sub("", message, count=1)
    return before + _CONDITION.sub("", message)
