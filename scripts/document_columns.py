"""Write the table of the catalogue's columns into docs/catalogues.md, from their declaration.

python scripts/document_columns.py
"""

from __future__ import annotations

from pathlib import Path

from phdlspec.columns import COLUMNS, ON_REQUEST, Column, ColumnRole, calibration_columns
from phdlspec.labels import LabelSet, Role

PAGE = Path(__file__).parent.parent / "docs" / "catalogues.md"
BEGIN, END = "<!-- columns: begin -->\n", "<!-- columns: end -->\n"
_ABUNDANCES = LabelSet().names[LabelSet().place(Role.ABUNDANCE)]
_EXAMPLE = "MG_FE"  # stands for all abundances
_HEAD = "| column | unit | type | comment |\n|---|---|---|---|\n"
_TYPES = {"U": "text", "f4": "float32", "f8": "float64", "i2": "int16", "i4": "int32", "u1": "uint8"}


def _line(column: Column) -> str:
    return f"| `{column.name}` | {column.unit} | {_TYPES[column.dtype]} | {column.comment} |\n"


def table() -> str:
    """The table: one line a column of the star, of RV, a label that is no abundance and one abundance for all."""
    left_out = {name for name in _ABUNDANCES if name != _EXAMPLE}
    text = _HEAD
    for column in COLUMNS:
        if column.parameter not in left_out:
            text += _line(column)
        if column.parameter == _EXAMPLE and column.role is ColumnRole.FLAG:
            text += f"| … | | | the same for {', '.join(f'`{name}`' for name in _ABUNDANCES if name != _EXAMPLE)} |\n"
    text += "\nOn request (`--columns NAME …`, in Python `fit_many(..., columns=[...])`):\n\n"
    text += "| name | columns |\n|---|---|\n"
    text += "".join(f"| `{name}` | {words} |\n" for name, words in ON_REQUEST.items())
    text += "\nA calibration adds, for each label that it knows:\n\n" + _HEAD
    return text + "".join(map(_line, calibration_columns(_EXAMPLE).values()))


def with_table(page: str) -> str:
    """The page with the table between its marks."""
    before, rest = page.split(BEGIN)
    return before + BEGIN + table() + END + rest.split(END)[1]


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
