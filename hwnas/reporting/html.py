"""Building blocks of the report's pages: HTML that is safe to join, tables, numbers in words.

`Html` is markup, `str` is text: text from files becomes markup only through `text`, which escapes
it, and the type checker keeps the two apart.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from typing import NewType
from urllib.parse import quote

import numpy as np

Html = NewType("Html", str)

UNKNOWN = "not known"
NO_BREAK = "\u00a0"
"""The space between a number and its unit."""

STYLE = """
:root { color-scheme: light dark; --ink: #1c2128; --dim: #555f6a; --paper: #ffffff;
  --soft: #f2f4f6; --line: #ccd3da; --bar: #2f7fc4; --measured: #c9711c;
  --pass: #1a7f37; --fail: #bf2b30; --inconclusive: #8a5b00; --unknown: #555f6a; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ec; --dim: #a3adb8; --paper: #14171b;
  --soft: #1f242a; --line: #3a424b; --pass: #4fbf6b; --fail: #f2777a; --inconclusive: #dba43c;
  --unknown: #a3adb8; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 66rem; padding: 1rem 0.75rem 3rem; color: var(--ink);
  background: var(--paper); font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0.5rem 0 1rem; }
h2 { font-size: 1.2rem; line-height: 1.25; margin: 2.2rem 0 0.5rem; }
p { margin: 0.5rem 0; max-width: 46rem; }
a { color: inherit; }
.banner { border: 1px solid var(--line); border-left: 0.6rem solid var(--tone);
  border-radius: 0.4rem; background: var(--soft); padding: 0.8rem 1rem; }
.banner h2 { color: var(--tone); margin: 0 0 0.3rem; }
.pass { --tone: var(--pass); } .fail { --tone: var(--fail); }
.inconclusive { --tone: var(--inconclusive); }
.skipped, .unknown { --tone: var(--unknown); }
.status { color: var(--tone); font-weight: 600; }
.missing, figcaption { color: var(--dim); }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr));
  gap: 0.6rem 1rem; margin: 0.8rem 0 0; }
.facts dt { color: var(--dim); font-size: 0.9rem; }
.facts dd { margin: 0; font-weight: 600; }
.scroll { overflow-x: auto; margin: 0.6rem 0; }
table { border-collapse: collapse; font-size: 0.95rem; overflow-wrap: normal; }
th, td { text-align: left; vertical-align: top; padding: 0.3rem 0.9rem 0.3rem 0;
  border-bottom: 1px solid var(--line); }
td { font-variant-numeric: tabular-nums; max-width: 24rem; overflow-wrap: break-word; }
.bars { width: 100%; max-width: 56rem; } .bars td { vertical-align: middle; }
.bars td:last-child { white-space: nowrap; padding-right: 0; }
.bars td:nth-child(2) { width: 40%; }
.bar { height: 0.9rem; min-width: 1px; border-radius: 0.15rem; background: var(--bar); }
.bar.measured { background: var(--measured); }
.figures { display: grid; gap: 1.5rem 2rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr)); }
figure { margin: 0; max-width: 30rem; }
figcaption { font-size: 0.92rem; margin-top: 0.3rem; }
figcaption strong { color: var(--ink); }
svg { display: block; width: 100%; height: auto; }
svg text { font-family: system-ui, sans-serif !important; fill: currentColor; }
svg .node { fill: var(--soft); stroke: var(--dim); }
details { margin: 0.5rem 0; } summary { cursor: pointer; }
pre { overflow-x: auto; background: var(--soft); padding: 0.7rem; border-radius: 0.4rem;
  font-size: 0.9rem; }
"""

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


def percent(share: float | None) -> str:
    """A share of 1 in percent, or `not known`."""
    return UNKNOWN if share is None else f"{number(round(100 * share, 2))}{NO_BREAK}%"


def decibels(value: float | None) -> str:
    """A ratio with its unit, or `not known`."""
    return UNKNOWN if value is None else f"{value:.1f}{NO_BREAK}dB"


def kibibytes(size_bytes: float | None) -> str:
    """The size of a file, or `not known`."""
    return UNKNOWN if size_bytes is None else f"{size_bytes / 1024:,.1f}{NO_BREAK}KiB"


def paragraph(sentence: str) -> Html:
    """A paragraph of text."""
    return Html(f"<p>{text(sentence)}</p>")


def missing(sentence: str) -> Html:
    """What stands where a stage has left nothing yet."""
    return Html(f'<p class="missing">{text(sentence)}</p>')


def status(word: str | None) -> Html:
    """The outcome of a gate or a run: a word, and a colour for those that have one."""
    return Html(f'<span class="status {_tone(word)}">{text(word or UNKNOWN)}</span>')


def _tone(word: str | None) -> str:
    return word if word in ("pass", "fail", "inconclusive", "skipped") else "unknown"


def banner(verdict: str | None, title: str, *parts: Html) -> Html:
    """What stands first: the verdict in words, in its colour."""
    return Html(
        f'<section class="banner {_tone(verdict)}"><h2>{text(title)}</h2>{"".join(parts)}'
        "</section>\n"
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


def table(header: Sequence[str], rows: Iterable[Sequence[Html]], css_class: str = "") -> Html:
    """A table in a box of its own, which scrolls where the screen is narrower."""
    head = "".join(f'<th scope="col">{text(name)}</th>' for name in header)
    body = "\n".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return Html(
        f'<div class="scroll" tabindex="0"><table class="{css_class}">'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


def figure(svg: str, title: str, caption: str) -> Html:
    """A drawing with its title and a caption."""
    return Html(
        f"<figure>{svg}<figcaption><strong>{text(title)}.</strong> {text(caption)}</figcaption>"
        "</figure>"
    )


def figures(items: Sequence[Html]) -> Html:
    """Figures side by side where there is room."""
    return Html(f'<div class="figures">{"".join(items)}</div>')


def details(title: str, content: str) -> Html:
    """Text as it is in a file, folded away."""
    return Html(f"<details><summary>{text(title)}</summary><pre>{text(content)}</pre></details>")


def section(title: str, *parts: Html) -> Html:
    """A part of the page under its heading."""
    content = "\n".join(parts)
    return Html(f"<section>\n<h2>{text(title)}</h2>\n{content}\n</section>\n")


def page(title: str, *parts: Html) -> str:
    """A whole document; its policy forbids scripts and everything from elsewhere."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{text(title)}</h1>\n{''.join(parts)}</body>\n</html>\n"
    )
