"""Pieces of the pages that checks of data-driven models write: pictures and tables as HTML that needs no other file."""

from __future__ import annotations

import base64
import html
import io
from typing import TYPE_CHECKING

import numpy as np
from astropy.table import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def picture(figure: Figure) -> str:
    """The figure as an image in the page."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return f"<img alt='' src='data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}'>"


def html_table(table: Table) -> str:
    """The table with four digits of its numbers; NaN is an empty cell. Text is escaped."""

    def cell(value: object) -> str:
        if isinstance(value, float):
            return "" if np.isnan(value) else f"{value:.4g}"
        return html.escape(str(value))

    head = "".join(f"<th>{html.escape(name)}</th>" for name in table.colnames)
    body = "".join("<tr>" + "".join(f"<td>{cell(value)}</td>" for value in row) + "</tr>" for row in table)
    return f"<table><tr>{head}</tr>{body}</table>"
