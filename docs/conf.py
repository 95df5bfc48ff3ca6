"""Sphinx: pages in Markdown, a reference from docstrings, settings with their defaults."""

from __future__ import annotations

import re
from typing import Any

from pydantic import BaseModel
from sphinx.application import Sphinx

project = "hwnas"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "alabaster"
html_title = "hwnas"
html_theme_options = {
    "description": "Data, a device and a latency budget in; a checked ONNX model out.",
    "fixed_sidebar": True,
    "page_width": "1100px",
    "sidebar_width": "240px",
}
html_show_copyright = False
html_copy_source = False
myst_heading_anchors = 3
# Docstrings mark code with single backticks.
default_role = "code"
add_module_names = False
autodoc_member_order = "bysource"
autodoc_default_options = {
    "members": True,
    "show-inheritance": True,
    "exclude-members": "model_config",
}
napoleon_numpy_docstring = False
napoleon_use_ivar = True

_NAPOLEON = 500
"""When the docstrings' sections are read; the hooks below come before and after."""
_plain: dict[str, list[str]] = {}
_OUTSIDE = re.compile(r"\[([^\]]+)\]\((?:\.\./)+[^)]*?(?:\.md(?:#[^)]*)?|/[^)./]+)\)")
"""Links to pages and folders outside `docs/`: they work in the repository, not in the HTML."""


def without_links_outside(app: Sphinx, name: str, source: list[str]) -> None:
    """Keep the text alone of links that lead to pages and folders outside the documentation."""
    source[0] = _OUTSIDE.sub(r"\1", source[0])


def list_fields(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """The fields of a pydantic model as attributes, with default and description."""
    if what != "class" or not issubclass(obj, BaseModel) or not obj.model_fields:
        return
    lines += ["", "Attributes:"]
    for key, field in obj.model_fields.items():
        default = repr(field.get_default(call_default_factory=True))
        stated = "required" if field.is_required() else f"default `{default}`"
        description = f"; {field.description}" if field.description else ""
        lines.append(f"    {key}: {stated}{description}")


def without_signature(app: Sphinx, what: str, name: str, obj: Any, *_: Any) -> Any:
    """A pydantic model's signature repeats its fields."""
    return ("", None) if what == "class" and issubclass(obj, BaseModel) else None


def keep_plain(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Napoleon takes what is before a colon for a type, in docstrings of attributes."""
    if what in ("attribute", "property", "data"):
        _plain[name] = list(lines)


def restore_plain(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Undo Napoleon's reading of what `keep_plain` kept."""
    if name in _plain:
        lines[:] = _plain.pop(name)


def setup(app: Sphinx) -> None:
    """Connect the hooks."""
    app.connect("source-read", without_links_outside)
    app.connect("autodoc-process-docstring", list_fields, priority=_NAPOLEON - 1)
    app.connect("autodoc-process-docstring", keep_plain, priority=_NAPOLEON - 1)
    app.connect("autodoc-process-docstring", restore_plain, priority=_NAPOLEON + 1)
    app.connect("autodoc-process-signature", without_signature)
