"""Building blocks of the HTML pages: escaped text, tables, figures, sections and whole documents.

`Html` is markup and `str` is plain text. Text from files becomes markup only through `text`, which
escapes it; the type checker keeps the two apart.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NewType
from urllib.parse import quote

from hwnas.reporting.formatting import UNKNOWN
from hwnas.reporting.theme import resource, series_class, style_sheet

Html = NewType("Html", str)

_CONTROL = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"  # control characters, which HTML does not allow
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # what turns the direction of writing
    "\u2028\u2029\ufeff\ufffe\uffff\U000e0000-\U000e007f]"  # invisible ones, and no characters
)


def text(value: object) -> Html:
    """Plain text as escaped markup.

    Control characters and what changes the direction of writing are replaced by U+FFFD, so that a
    text cannot change how its surroundings look.
    """
    readable = str(value).encode("utf-8", "replace").decode()
    return Html(html.escape(_CONTROL.sub("\ufffd", readable)))


def prose(sentence: str) -> Html:
    """Plain text as escaped markup; text between a pair of backticks becomes code."""
    parts = text(sentence).split("`")
    if len(parts) % 2 == 0:
        return text(sentence)
    return Html("".join(f"<code>{p}</code>" if i % 2 else p for i, p in enumerate(parts)))


def paragraph(sentence: str) -> Html:
    """A paragraph; text between backticks becomes code."""
    return Html(f"<p>{prose(sentence)}</p>")


def missing(sentence: str) -> Html:
    """A note in place of content that does not exist, for example before a stage has run."""
    return Html(f'<p class="missing">{prose(sentence)}</p>')


def warning(sentence: str) -> Html:
    """A paragraph that must not be overlooked."""
    return Html(f'<p class="warning"><strong>Warning:</strong> {text(sentence)}</p>')


def status(word: str | None) -> Html:
    """The outcome of a gate or a run as a word in its colour."""
    return Html(f'<span class="status {_tone(word)}">{text(word or UNKNOWN)}</span>')


def _tone(word: str | None) -> str:
    return word if word in ("pass", "fail", "inconclusive", "reported", "skipped") else "unknown"


def banner(verdict: str | None, title: str, *parts: Html) -> Html:
    """The box at the top of a report, in the colour of the verdict.

    Args:
        verdict: chooses the colour; None for a run that has not been checked.
        title: the heading.
        parts: the content below it.
    """
    return Html(
        f'<section class="banner {_tone(verdict)}" aria-labelledby="verdict">'
        f'<h2 id="verdict">{text(title)}</h2>{"".join(parts)}</section>\n'
    )


def bar(share: float, css_class: str = "") -> Html:
    """A horizontal bar that fills a share, 0 to 1, of the available width."""
    percentage = 100 * min(max(share, 0.0), 1.0)
    classes = " ".join(filter(None, ("bar", css_class, "" if percentage else "zero")))
    return Html(f'<div class="{classes}" style="width:{percentage:.2f}%"></div>')


def picture(png: bytes, label: str, width: int, height: int) -> Html:
    """A PNG image inside the page.

    Args:
        png: the content of the file.
        label: what screen readers say.
        width: number of columns.
        height: number of rows.
    """
    data = base64.b64encode(png).decode()
    return Html(
        f'<img src="data:image/png;base64,{data}" alt="{text(label)}" width="{width}" '
        f'height="{height}">'
    )


def link(path: str, label: str) -> Html:
    """A link to a file, with a path relative to the page."""
    address = quote(path, errors="surrogateescape")
    return Html(f'<a href="./{address}">{text(label)}</a>')


def facts(pairs: Sequence[tuple[str, str]]) -> Html:
    """A list of key figures, each a pair of name and value."""
    items = (f"<div><dt>{text(k)}</dt><dd>{text(v)}</dd></div>" for k, v in pairs)
    return Html(f'<dl class="facts">{"".join(items)}</dl>')


def table(
    name: str,
    header: Sequence[str],
    rows: Iterable[Sequence[Html]],
    css_class: str = "",
) -> Html:
    """A table in a box that scrolls horizontally where it is wider than the screen.

    Args:
        name: caption for screen readers.
        header: titles of the columns.
        rows: cells of each row; the first cell is the row's header.
        css_class: CSS classes; `sortable` lets readers sort the rows by a column, `bars` widens
            the second column for bars, and `stacked` writes the cells of a row below each other on
            narrow screens, each with the title of its column.
    """
    stacked = "stacked" in css_class.split()
    labels = [f' data-label="{text(title)}"' if stacked else "" for title in header[1:]]
    head = "".join(f'<th scope="col">{text(title)}</th>' for title in header)
    body = "\n".join(
        f'<tr><th scope="row">{first}</th>{_cells(rest, labels)}</tr>' for first, *rest in rows
    )
    return Html(
        f'<div class="scroll" role="group" aria-label="{text(name)}" tabindex="0">'
        f'<table class="{css_class}"><caption class="unseen">{text(name)}</caption>'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


def _cells(cells: Sequence[Html], labels: Sequence[str]) -> str:
    return "".join(f"<td{label}>{cell}</td>" for cell, label in zip(cells, labels, strict=True))


def legend(labels: Sequence[str], *more: tuple[str, str]) -> Html:
    """The legend of a chart: a coloured entry for each series.

    Args:
        labels: names of the series in the order of their colours. Where scripts run, readers can
            click an entry to hide its series.
        more: CSS class and label of further entries, for example `("dashed", "budget")`.
    """
    items = [
        f'<li class="{series_class(i)}" data-series="{i}">{text(label)}</li>'
        for i, label in enumerate(labels)
    ]
    items += [f'<li class="{css_class}">{text(label)}</li>' for css_class, label in more]
    return Html(f'<ul class="legend">{"".join(items)}</ul>')


def figure(title: str, caption: str, *parts: Html, wide: bool = False) -> Html:
    """A figure with its title and caption above the parts (legend, drawing, table of values)."""
    css_class = "chart wide" if wide else "chart"
    return Html(
        f'<figure class="{css_class}"><figcaption><strong>{text(title)}.</strong> {text(caption)}'
        f"</figcaption>{''.join(parts)}</figure>"
    )


def gallery(items: Sequence[tuple[Html, str]]) -> Html:
    """Small pictures in rows, each with the words below it."""
    shown = "".join(f"<li>{drawing}<span>{text(words)}</span></li>" for drawing, words in items)
    return Html(f'<ul class="gallery">{shown}</ul>')


def stack(items: Sequence[Html]) -> Html:
    """Parts below each other, as one of several `columns`."""
    return Html(f"<div>{''.join(items)}</div>")


def columns(items: Sequence[Html]) -> Html:
    """Parts side by side, or below each other on narrow screens."""
    return Html(f'<div class="columns">{"".join(items)}</div>')


def details(title: str, content: Html) -> Html:
    """Content that is hidden until the reader clicks its title."""
    return Html(f"<details><summary>{text(title)}</summary>{content}</details>")


def explained(sentence: str, title: str = "How to read this") -> Html:
    """A closed box with a paragraph that explains the figures above it."""
    return details(title, paragraph(sentence))


def preformatted(content: str) -> Html:
    """Text in a fixed-width font, with its line breaks and spaces."""
    return Html(f'<pre tabindex="0">{text(content)}</pre>')


def heading(title: str) -> Html:
    """A heading inside a section."""
    return Html(f"<h3>{text(title)}</h3>")


@dataclass(frozen=True)
class Section:
    """A part of a page with its own heading and an entry in the table of contents."""

    title: str
    content: Html

    @property
    def name(self) -> str:
        """The identifier that links within the page use."""
        return "-".join(re.findall(r"[a-z0-9]+", self.title.lower()))

    def render(self) -> Html:
        """The section as markup."""
        return Html(
            f'<section id="{self.name}" aria-labelledby="{self.name}-title">\n'
            f'<h2 id="{self.name}-title">{text(self.title)}</h2>\n{self.content}\n</section>\n'
        )


def section(title: str, *parts: Html) -> Section:
    """A section that consists of the parts, one below the other."""
    return Section(title, Html("\n".join(parts)))


def page(title: str, lead: Html, sections: Sequence[Section]) -> str:
    """A complete HTML document.

    Its content security policy allows the page's own script, by hash, and images inside the page.

    Args:
        title: title of the page.
        lead: content above the table of contents.
        sections: the content below it, in order.
    """
    script, style = resource("page.js"), style_sheet()
    script_hash = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{script_hash}'; base-uri 'none'; form-action 'none'"
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
