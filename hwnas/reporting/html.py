"""Building blocks of the report's pages: HTML that is safe to join, tables, numbers in words.

`Html` is markup, `str` is text: text from files becomes markup only through `text`, which escapes
it, and the type checker keeps the two apart.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import NewType
from urllib.parse import quote

import numpy as np

Html = NewType("Html", str)

UNKNOWN = "not known"
NO_BREAK = "\u00a0"
"""The space between a number and its unit."""

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
"""The pages' colours; s0 to s7 are those of series, which need 3:1 against the background."""
SERIES = 8
"""How many series have a colour of their own."""

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def text(value: object) -> Html:
    """Text as markup, escaped; what no page may hold (control characters) is replaced."""
    readable = str(value).encode("utf-8", "replace").decode()
    return Html(html.escape(_CONTROL.sub("\ufffd", readable)))


def number(value: float | None, digits: int = 4) -> str:
    """A number with so many significant digits, or `not known`; no exponent unless it is tiny."""
    if value is None:
        return UNKNOWN
    if abs(value) >= 10**digits:
        return count(value)
    if 0 < abs(value) < 1e-4:
        return f"{value:.{digits}g}"
    return np.format_float_positional(
        value, precision=digits, unique=False, fractional=False, trim="-"
    )


def count(value: float | None) -> str:
    """A whole number with its thousands apart, or `not known`."""
    return UNKNOWN if value is None else f"{value:,.0f}"


def milliseconds(value_ms: float | None, digits: int = 4) -> str:
    """A latency with its unit, or `not known`."""
    return UNKNOWN if value_ms is None else f"{number(value_ms, digits)}{NO_BREAK}ms"


def in_words(metric: str) -> str:
    """The name of a metric as a text, `mean IoU`."""
    words = metric.replace("_", " ").split()
    return " ".join({"iou": "IoU", "f1": "F1", "r2": "R2"}.get(word, word) for word in words)


def sentence_case(words: str) -> str:
    """The same with a capital at the beginning, and nothing else changed."""
    return words[:1].upper() + words[1:]


def percent(share: float | None) -> str:
    """A share of 1 in percent, or `not known`."""
    return UNKNOWN if share is None else f"{number(round(100 * share, 2))}{NO_BREAK}%"


def decibels(value: float | None) -> str:
    """A ratio with its unit, or `not known`."""
    return UNKNOWN if value is None else f"{value:.1f}{NO_BREAK}dB"


def kibibytes(size_bytes: float | None) -> str:
    """The size of a file, or `not known`."""
    return UNKNOWN if size_bytes is None else f"{size_bytes / 1024:,.1f}{NO_BREAK}KiB"


def prose(sentence: str) -> Html:
    """Text as markup; what stands between backticks is code."""
    parts = text(sentence).split("`")
    if len(parts) % 2 == 0:
        return text(sentence)
    return Html("".join(f"<code>{p}</code>" if i % 2 else p for i, p in enumerate(parts)))


def paragraph(sentence: str) -> Html:
    """A paragraph of text."""
    return Html(f"<p>{prose(sentence)}</p>")


def missing(sentence: str) -> Html:
    """What stands where a stage has left nothing yet."""
    return Html(f'<p class="missing">{prose(sentence)}</p>')


def status(word: str | None) -> Html:
    """The outcome of a gate or a run: a word, and a colour for those that have one."""
    return Html(f'<span class="status {_tone(word)}">{text(word or UNKNOWN)}</span>')


def _tone(word: str | None) -> str:
    return word if word in ("pass", "fail", "inconclusive", "skipped") else "unknown"


def banner(verdict: str | None, title: str, *parts: Html) -> Html:
    """What stands first: the verdict in words, in its colour."""
    return Html(
        f'<section class="banner {_tone(verdict)}" aria-labelledby="verdict">'
        f'<h2 id="verdict">{text(title)}</h2>{"".join(parts)}</section>\n'
    )


def bar(share: float, css_class: str = "") -> Html:
    """A horizontal bar, of the share 0 to 1 of its place."""
    percentage = 100 * min(max(share, 0.0), 1.0)
    return Html(f'<div class="bar {css_class}" style="width:{percentage:.2f}%"></div>')


def link(path: str, label: str) -> Html:
    """A link to a file beside the page."""
    address = quote(path, errors="surrogateescape")
    return Html(f'<a href="./{address}">{text(label)}</a>')


def facts(pairs: Sequence[tuple[str, str]]) -> Html:
    """Key figures with their names."""
    items = (f"<div><dt>{text(k)}</dt><dd>{text(v)}</dd></div>" for k, v in pairs)
    return Html(f'<dl class="facts">{"".join(items)}</dl>')


def table(
    name: str,
    header: Sequence[str],
    rows: Iterable[Sequence[Html]],
    css_class: str = "",
) -> Html:
    """A table in a box of its own, which scrolls where the screen is narrower.

    Args:
        name: for those who cannot see what stands around it.
        header: of the columns.
        rows: their first cell names the row.
        css_class: `sortable` lets readers sort it by a column.
    """
    head = "".join(f'<th scope="col">{text(title)}</th>' for title in header)
    body = "\n".join(
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>'
        for first, *rest in rows
    )
    return Html(
        f'<div class="scroll" role="group" aria-label="{text(name)}" tabindex="0">'
        f'<table class="{css_class}"><caption class="unseen">{text(name)}</caption>'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


def legend(labels: Sequence[str], *more: tuple[str, str]) -> Html:
    """What the colours of a chart's series mean, in their order.

    Args:
        labels: of the series, which can be switched off where scripts run.
        more: class and label of what is no series: `dashed`, `hollow`.
    """
    items = [
        f'<li class="{series_class(i)}" data-series="{i}">{text(label)}</li>'
        for i, label in enumerate(labels)
    ]
    items += [f'<li class="{css_class}">{text(label)}</li>' for css_class, label in more]
    return Html(f'<ul class="legend">{"".join(items)}</ul>')


def series_class(index: int) -> str:
    """The CSS class that gives a series its colour."""
    return f"s{index % SERIES}"


def figure(title: str, caption: str, *parts: Html, wide: bool = False) -> Html:
    """A drawing under its title and a caption, with its legend and its values as a table."""
    css_class = "chart wide" if wide else "chart"
    return Html(
        f'<figure class="{css_class}"><figcaption><strong>{text(title)}.</strong> {text(caption)}'
        f"</figcaption>{''.join(parts)}</figure>"
    )


def columns(items: Sequence[Html]) -> Html:
    """Parts side by side where there is room."""
    return Html(f'<div class="columns">{"".join(items)}</div>')


def details(title: str, content: Html) -> Html:
    """What is folded away under a title."""
    return Html(f"<details><summary>{text(title)}</summary>{content}</details>")


def preformatted(content: str) -> Html:
    """Text as it is in a file."""
    return Html(f'<pre tabindex="0">{text(content)}</pre>')


def heading(title: str) -> Html:
    """A heading inside a section."""
    return Html(f"<h3>{text(title)}</h3>")


@dataclass(frozen=True)
class Section:
    """A part of a page under a heading of its own, which the table of contents names."""

    title: str
    content: Html

    @property
    def name(self) -> str:
        """Its identifier in the page."""
        return "-".join(re.findall(r"[a-z0-9]+", self.title.lower()))

    def render(self) -> Html:
        """The markup."""
        return Html(
            f'<section id="{self.name}" aria-labelledby="{self.name}-title">\n'
            f'<h2 id="{self.name}-title">{text(self.title)}</h2>\n{self.content}\n</section>\n'
        )


def section(title: str, *parts: Html) -> Section:
    """A section of the parts; its title is the page's own words."""
    return Section(title, Html("\n".join(parts)))


def page(title: str, lead: Html, sections: Sequence[Section]) -> str:
    """A whole document; its policy allows its own script and nothing from elsewhere.

    Args:
        title: of the page.
        lead: what stands first.
        sections: the rest, in order.
    """
    script, style = _resource("page.js"), style_sheet()
    script_hash = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{script_hash}'; "
        "base-uri 'none'; form-action 'none'"
    )
    contents = "".join(f'<li><a href="#{s.name}">{text(s.title)}</a></li>' for s in sections)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        '<a class="skip" href="#main">Skip to the content</a>\n'
        f'<header><h1>{text(title)}</h1><button type="button" id="theme" hidden></button>'
        f'</header>\n<main id="main">\n{lead}\n'
        f'<nav aria-label="Contents"><ul>{contents}</ul></nav>\n'
        f"{''.join(s.render() for s in sections)}</main>\n"
        f'<div id="tip" role="status"></div>\n<script>{script}</script>\n</body>\n</html>\n'
    )


def style_sheet() -> str:
    """The style sheet: both themes' colours, the system's choice and the reader's, the rest."""
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
        f":root[data-theme=light] {{ color-scheme: light; }}\n{series}\n{_resource('page.css')}"
    )


def _resource(name: str) -> str:
    """A file beside this one."""
    return (resources.files("hwnas.reporting") / name).read_text()
