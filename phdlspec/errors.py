"""The one exception that a user is meant to read.

Every mistake of input raises `UserError` with a single sentence: which file or value, what is wrong, what was
expected and what to do. The command line prints it without a traceback; a catalogue puts it into the row's reason.
"""


class UserError(Exception):
    """A mistake in the input that one sentence explains."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or what kind of error it is where it has none."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__
