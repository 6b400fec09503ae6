"""The one error type of what a user can cause, and texts on one line."""

__all__ = ["UserError", "printable"]


def printable(text: str) -> str:
    """A text on one line: names of files may hold line breaks, escape sequences and worse."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class UserError(ValueError):
    """Something the caller can put right: a name, a size, a file, a flag.

    The message is one sentence that names the values involved and what to do about them. The
    command line prints it without a traceback and leaves with exit code 2.
    """
