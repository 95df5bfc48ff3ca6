"""Colours of the pages in the light and the dark theme, and the style sheet that uses them."""

from __future__ import annotations

from importlib import resources

LIGHT = {
    "ink": "#1c2128", "dim": "#555f6a", "paper": "#ffffff", "soft": "#f2f4f6", "line": "#ccd3da",
    "focus": "#1f6feb", "pass": "#1a7f37", "fail": "#bf2b30", "inconclusive": "#8a5b00",
    "s0": "#2f7fc4", "s1": "#c9711c", "s2": "#3a945a", "s3": "#9165c9", "s4": "#cc4f5e",
    "s5": "#8a7a35", "s6": "#1f8f99", "s7": "#6b7683",
}  # fmt: skip
DARK = LIGHT | {
    "ink": "#e4e8ec", "dim": "#a3adb8", "paper": "#14171b", "soft": "#1f242a", "line": "#3a424b",
    "focus": "#79b8ff", "pass": "#4fbf6b", "fail": "#f2777a", "inconclusive": "#dba43c",
    "s0": "#5aa2e0", "s1": "#e08c3c", "s2": "#53b377", "s3": "#ab86dd", "s4": "#e07684",
    "s5": "#b5a355", "s6": "#43b3bd", "s7": "#98a3af",
}  # fmt: skip
"""s0 to s7 are the colours of data series; each has a contrast of at least 3:1 with `paper`."""
SERIES = 8
"""The number of series that have a colour of their own."""


def series_class(index: int) -> str:
    """The CSS class that gives a series its colour."""
    return f"s{index % SERIES}"


def style_sheet() -> str:
    """The style sheet with the colours of both themes.

    The theme follows the system's preference until the reader chooses one.
    """
    light, dark = (
        " ".join(f"--{name}: {colour};" for name, colour in theme.items())
        for theme in (LIGHT, DARK)
    )
    series = "\n".join(f".s{i} {{ --c: var(--s{i}); }}" for i in range(SERIES))
    return (
        f":root {{ {light} }}\n"
        "@media (prefers-color-scheme: dark) { :root:not([data-theme]) "
        f"{{ {dark} }} }}\n"
        f":root[data-theme=dark] {{ color-scheme: dark; {dark} }}\n"
        f":root[data-theme=light] {{ color-scheme: light; }}\n{series}\n{resource('page.css')}"
    )


def resource(name: str) -> str:
    """The text of a file in this package's folder."""
    return (resources.files("hwnas.reporting") / name).read_text("utf-8")
