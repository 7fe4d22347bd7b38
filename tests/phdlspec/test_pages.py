"""Pages: everything that files tell is escaped, in each kind of block, and no byte of it can break the file."""

import numpy as np
import pytest
from astropy.table import Table
from markupsafe import Markup

from phdlspec.errors import UserError
from phdlspec.pages import (
    Code,
    Details,
    Heading,
    Listing,
    MadeByLibrary,
    PageTable,
    new_figure,
    page,
    picture,
    rows_of,
    text,
    write_page,
)

EVIL = "<script>alert('x')</script>"
BLOCKS = {
    "heading": Heading(EVIL), "text": text("before", EVIL), "strong": text("words", strong=EVIL),
    "cell": PageTable(("name",), [(EVIL,)]), "head": PageTable((EVIL,), []), "listing": Listing([EVIL]),
    "code": Code(EVIL), "summary": Details(EVIL, []), "inside": Details("more", [text(EVIL)]),
    "table": rows_of(Table({EVIL: [EVIL]})),
}  # fmt: skip


@pytest.mark.parametrize("kind", BLOCKS)
def test_every_block_is_escaped(kind):
    made = page("title", [BLOCKS[kind]])
    assert EVIL not in made
    assert "&lt;script&gt;" in made


def test_the_title_is_escaped_and_scripts_of_a_library_are_not():
    made = page(EVIL, [MadeByLibrary(Markup("<b>drawn</b>"))], Markup("<script>library</script>"))
    assert EVIL not in made
    assert made.count("&lt;script&gt;") == 2
    assert "<b>drawn</b>" in made
    assert "<script>library</script>" in made


def test_what_no_page_can_hold_is_a_question_mark(tmp_path):
    name = b"st\xe9rn\x1b[31m".decode("utf-8", "surrogateescape")
    write_page(tmp_path / "a.html", name, [text(name), Code("one\ntwo")])
    written = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert "st?rn?[31m" in written
    assert "one\ntwo" in written


def test_a_page_needs_no_other_file_and_missing_numbers_are_empty():
    figure = new_figure(1, 1)
    made = page("a", [picture(figure), rows_of(Table({"x": [np.nan, 1.23456]}))])
    assert 'src="data:image/png;base64,' in made
    assert "<td></td>" in made
    assert "<td>1.235</td>" in made


def test_a_page_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_page(tmp_path / "file" / "a.html", "a", [])
