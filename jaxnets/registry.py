"""Things by name, and the one sentence for a name that there is not."""

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

from jaxnets.errors import UserError

__all__ = ["Registry", "check_name"]

T = TypeVar("T")


class Registry(dict[str, T]):
    """A dict of things by name; to look up a name that it has not is a `UserError`.

    >>> Registry("fruit", {"pear": 1, "fig": 2})["pera"]
    Traceback (most recent call last):
    jaxnets.errors.UserError: there is no fruit "pera"; choose from pear, fig; did you mean pear?
    """

    def __init__(self, kind: str, things: Mapping[str, T]) -> None:
        """Names things of a kind, such as "optimizer"."""
        super().__init__(things)
        self._kind = kind

    def __missing__(self, name: str) -> T:
        check_name(self._kind, name, self)
        raise KeyError(name)


def check_name(kind: str, name: str, names: Iterable[str]) -> None:
    """Fails for a name that is none of those there are.

    Raises:
      UserError: it lists them, and says which of them may have been meant.
    """
    known = list(names)
    if name in known:
        return
    near = difflib.get_close_matches(str(name), known, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise UserError(f'there is no {kind} "{name}"; choose from {", ".join(known)}{hint}')
