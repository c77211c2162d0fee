"""Formulas as MathML, which browsers draw by themselves: no script, and no request to another server."""

from __future__ import annotations

import html
import re

from latex2mathml.converter import convert

MARKED = re.compile(r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<latex>.*?)\\[)\]]</(?P=tag)>', re.DOTALL)
IN_DOLLARS = re.compile(r"(?P<tag>\$\$?)(?P<latex>[^$]+)(?P=tag)")
CODE = re.compile(r"(<(pre|code|script|style)\b.*?</\2>)", re.DOTALL)


def on_page_content(page_html: str, page, **_) -> str:
    """What MkDocs calls for every page. pymdownx.arithmatex has marked the formulas of Markdown, nobody notebooks'."""
    if not page.file.src_uri.endswith(".ipynb"):
        return MARKED.sub(mathml, page_html)
    text, *rest = CODE.split(page_html)  # text, then code, its tag and text again and again
    rest[2::3] = [IN_DOLLARS.sub(mathml, part) for part in rest[2::3]]
    del rest[1::3]
    return IN_DOLLARS.sub(mathml, text) + "".join(rest)


def mathml(formula: re.Match) -> str:
    """One formula: on a line of its own, or within one."""
    display = "block" if formula["tag"] in ("div", "$$") else "inline"
    return convert(html.unescape(formula["latex"]), display=display)
