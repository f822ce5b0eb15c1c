"""Write the page of a data check: one HTML file that needs nothing else, and the same as Markdown beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from truetune.report import dataset_bars
from truetune.report.dataset_markdown import markdown
from truetune.report.dataset_page import Page, page
from truetune.report.html import fill
from truetune.runs import durable

SUFFIXES = {".html", ".htm", ".md"}


def write(result: Mapping[str, Any], path: Path) -> list[Path]:
    """The page of `result`, the document of `ft dataset check`, as HTML and as Markdown; returns where they stand.

    `path` may end in `.html` or `.md`, or in nothing. Raises ResourceError where it can't be written.
    """
    told = page(result)
    stem = path.with_suffix("") if path.suffix.lower() in SUFFIXES else path
    names = [stem.with_name(stem.name + suffix) for suffix in (".html", ".md")]
    for name, text in zip(names, (html(told), markdown(told)), strict=True):
        durable.write(name, text.encode("utf-8"))
    return names


def html(told: Page) -> str:
    """The whole page; foreign text goes through autoescape, and the policy forbids to load or run anything."""
    charts = dataset_bars.lengths(told.lengths, told.max_length, told.documents)
    return fill("dataset.html", ["page.css", "dataset.css"], page=told, charts=charts)
