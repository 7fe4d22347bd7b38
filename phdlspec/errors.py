"""The one exception that a user is meant to read.

Every mistake of input raises `UserError` with a single sentence: which file or value, what is wrong, what was
expected and what to do. The command line prints it without a traceback; a catalogue puts it into the row's reason.
"""

LONGEST = 1000  # characters of a message


def printable(text: str) -> str:
    """A text with question marks in the place of control characters and of what no terminal can show."""
    return "".join(c if c.isprintable() else "?" for c in text)


def ascii_text(text: str) -> str:
    """A text as FITS can hold it, in printable ASCII: what is not that is written as Python escapes it."""
    letters = text.replace("Å", "A")
    return "".join(c if " " <= c <= "~" else c.encode("unicode_escape").decode() for c in letters)


def plain(text: str, longest: int = LONGEST) -> str:
    """A text in one line, cut, and without control characters, for a terminal, a log or a table.

    What stands in files, their names and headers is anybody's; escape sequences among it would be obeyed.
    """
    line = printable(" ".join(text[: 4 * longest].split()))
    return line if len(line) <= longest else line[: longest - 1] + "…"


class UserError(Exception):
    """A mistake in the input that one sentence explains: see `plain`.

    >>> try:
    ...     result["Tef"]
    ... except phdlspec.UserError as error:
    ...     print("did you mean" in str(error))
    True
    """

    def __init__(self, message: str):
        super().__init__(plain(message))


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or what kind of error it is where it has none."""
    return next(iter(str(error)[:LONGEST].splitlines()), "") or type(error).__name__
