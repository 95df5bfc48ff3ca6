"""Texts of others that try to be more than text in pages, terminals, XML and Markdown."""

from __future__ import annotations

OWNED = "document.body.dataset.owned=1"
"""What a script in a page does if it runs."""

HTML = [
    f"<script>{OWNED}</script>",
    f"</title><script>{OWNED}</script>",
    f"</style><script>{OWNED}</script>",
    f"</script><script>{OWNED}</script>",
    f"</pre></details></section><script>{OWNED}</script>",
    f"</svg><script>{OWNED}</script>",
    f"<svg onload={OWNED}>",
    f"<svg><script>{OWNED}</script></svg>",
    f"<svg><a xlink:href='javascript:{OWNED}'><text x=9 y=9>here</text></a></svg>",
    f"<img src=x onerror={OWNED}>",
    f'"><img src=x onerror={OWNED}>',
    f"'><img src=x onerror={OWNED}>",
    f'" autofocus onfocus={OWNED} x="',
    f"' onmouseover={OWNED} x='",
    f"<details open ontoggle={OWNED}>",
    f"<body onload={OWNED}>",
    f"<iframe srcdoc='<script>parent.{OWNED}</script>'></iframe>",
    f"<iframe src=javascript:parent.{OWNED}></iframe>",
    f"<object data=javascript:{OWNED}>",
    f"<a href=javascript:{OWNED}>here</a>",
    f"<form action=javascript:{OWNED}><input type=submit></form>",
    "<base href=//evil.example/>",
    "<meta http-equiv=refresh content='0;url=//evil.example'>",
    "<link rel=stylesheet href=//evil.example/a.css>",
    "<style>*{display:none}</style>",
    "<style>@import '//evil.example/a.css';</style>",
    "<!--",
    "]]><![CDATA[",
    "<plaintext>",
    "<textarea>",
    "<template>",
    f"&lt;script&gt;{OWNED}&lt;/script&gt;",
    "&#60;b&#62; &amp;amp; &copy;",
    f"<math><mtext><table><mglyph><style><img src=x onerror={OWNED}>",
    "{{constructor.constructor('return 1')()}} ${7*7} <%= 7*7 %>",
]
MARKDOWN = [
    "[here](javascript:alert(1)) ![](https://evil.example/a.png)",
    "<https://evil.example> https://evil.example www.evil.example",
    "| a | b |\n|---|---|\n| c",
    "`code` **bold** _so_ ~~gone~~ # title",
    "\n\n# title\n\n> quote\n\n- item\n\n```\nfence\n",
    "@somebody #1 owner/name#1 :tada: \\| \\` \\<b\\>",
    "[ref]: https://evil.example\n[ref]",
]
TERMINAL = [
    "\x1b[31mred\x1b[0m \x1b[2J\x1b[H",
    "\x1b]0;title\x07 \x1b]52;c;ZXZpbA==\x07 \x1b]8;;https://evil.example\x1b\\link\x1b]8;;\x1b\\",
    "\x9b31m \x9d0;title\x9c \x85 \x08\x08\x7f",
    "done\r::error::x\n::set-output name=a::b\n##[error]no\v\f",
    "[red]markup[/red] [link=https://evil.example]x[/link] [/] [",
]
DIRECTION = [
    "\u202egnp.exe\u202c \u2066a\u2067b\u2068c\u2069 \u200e\u200f\u061c",
    "a\u2028b\u2029c\ufeffd\u200be \U000e0041\U000e0042",
]
CODES = ["\x00\x01\ufffe\uffff\ud800", "=cmd|' /C calc'!A0"]

TEXTS = [*HTML, *MARKDOWN, *TERMINAL, *DIRECTION, *CODES]
