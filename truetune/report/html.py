"""The report as one HTML file that needs nothing else: no script, no font, no picture from elsewhere.

Every text goes through autoescape, and a Content-Security-Policy forbids the page to load or run anything, should a
text ever get through.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import FileSystemLoader, StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from markupsafe import Markup, escape

from truetune.report.page import UNDRAWN, Page

HERE = Path(__file__).parent
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""Styles stand in the page itself, those of the drawings on their elements."""


def html(page: Page, plots: Sequence[tuple[str, str, str, bool]]) -> str:
    """The whole page. `plots` are (title, SVG of our own making, what it shows, whether it is wide)."""
    drawn = [(title, Markup(svg), alt, wide) for title, svg, alt, wide in plots]
    return fill("page.html", ["page.css"], page=page, plots=drawn, undrawn=UNDRAWN)


def fill(template: str, styles: Sequence[str], **values: Any) -> str:
    """A template of this folder with values, among them `style`, the style sheets one after the other, and `policy`."""
    environment = ImmutableSandboxedEnvironment(
        autoescape=True,
        loader=FileSystemLoader(HERE),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["coded"] = coded
    style = Markup("".join((HERE / name).read_text("utf-8") for name in styles))
    return environment.get_template(template).render(style=style, policy=POLICY, **values)


def coded(text: str) -> Markup:
    """Text whose parts between backticks are code."""
    parts = text.split("`")
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if place % 2 else escape(part) for place, part in enumerate(parts)
    )
