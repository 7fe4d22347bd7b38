"""Reports as HTML pages that need no other file: blocks of text, tables and pictures in one template.

The template (Jinja2) escapes everything that it is given; the exception is `MadeByLibrary`, what Bokeh writes.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence, Set
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from phdlspec.errors import printable
from phdlspec.files import write_text

if TYPE_CHECKING:
    from astropy.table import Table
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Heading:
    """A heading; those of level 2 divide the page."""

    kind: ClassVar[str] = "heading"
    text: str
    level: int = 2


@dataclass(frozen=True)
class Text:
    """A paragraph of one or several lines. mood : "", "warn" or "good". strong : words before it."""

    kind: ClassVar[str] = "text"
    lines: tuple[str, ...]
    mood: str = ""
    strong: str = ""


@dataclass(frozen=True)
class Picture:
    """A figure as an image in the page. source : its data URI."""

    kind: ClassVar[str] = "picture"
    source: str


@dataclass(frozen=True)
class PageTable:
    """A table. faint : numbers of the rows that are shown in grey."""

    kind: ClassVar[str] = "rows"
    head: Sequence[Any]
    rows: Sequence[Sequence[Any]]
    faint: Set[int] = frozenset()


@dataclass(frozen=True)
class Listing:
    """A list of points."""

    kind: ClassVar[str] = "listing"
    items: Sequence[str]


@dataclass(frozen=True)
class Code:
    """Text as it stands."""

    kind: ClassVar[str] = "code"
    text: str


@dataclass(frozen=True)
class Details:
    """Blocks in sight that a click folds away."""

    kind: ClassVar[str] = "details"
    summary: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class MadeByLibrary:
    """HTML that a library made and that is put in as it is."""

    kind: ClassVar[str] = "made_by_library"
    html: Markup


Block = Heading | Text | Picture | PageTable | Listing | Code | Details | MadeByLibrary


def text(*lines: str, mood: str = "", strong: str = "") -> Text:
    """A paragraph: see `Text`."""
    return Text(lines, mood, strong)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure (inches); matplotlib, which is heavy, is imported only where one is drawn."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def picture(figure: Figure, dpi: int = 100) -> Picture:
    """The figure as an image in the page."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return Picture(f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}")


def rows_of(table: Table) -> PageTable:
    """A table with four digits of its numbers; NaN is an empty cell."""

    def cell(value: object) -> object:
        if isinstance(value, (float, np.floating)):
            return "" if np.isnan(value) else f"{value:.4g}"
        return value

    return PageTable(table.colnames, [[cell(value) for value in row] for row in table])


def page(title: str, blocks: Sequence[Block], head: Markup | None = None) -> str:
    """The page as text. head : scripts of a library."""
    return _template().render(title=title, blocks=blocks, head=head or Markup(""))


def write_page(path: str | Path, title: str, blocks: Sequence[Block], head: Markup | None = None) -> None:
    """Write the page as a whole. Raises `UserError` where it cannot be written."""
    write_text(path, page(title, blocks, head))


@lru_cache(maxsize=1)
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("phdlspec"), autoescape=True, undefined=StrictUndefined, finalize=_shown
    )
    return environment.get_template("page.html")


def _shown(value: Any) -> Any:
    # What files and their names tell may hold what no page can (half of a character, escape sequences).
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return "\n".join(map(printable, value.split("\n")))
