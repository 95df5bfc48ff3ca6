"""The libraries that only some explanations need."""

from __future__ import annotations

from importlib.util import find_spec

from hwnas.errors import RuntimeMissingError


def require_extra(module: str, library: str) -> None:
    """Raise RuntimeMissingError if a library is not installed.

    Args:
        module: the name that is imported.
        library: its name in the error.
    """
    try:
        is_installed = find_spec(module) is not None
    except ValueError:  # a module that is marked as missing
        is_installed = False
    if not is_installed:
        raise RuntimeMissingError(
            f"{library} is not installed", where="explain", mend="pip install 'hwnas[explain]'"
        )
