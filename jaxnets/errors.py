"""The one error type of what a user can cause."""

__all__ = ["UserError"]


class UserError(ValueError):
    """Something the caller can put right: a name, a size, a file, a flag.

    The message is one sentence that names the values involved and what to do about them. The
    command line prints it without a traceback and leaves with exit code 2.
    """
