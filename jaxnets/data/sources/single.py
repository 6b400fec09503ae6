"""Examples out of single files, as networks were trained on them: without labels, in any number."""

import glob
import os
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxnets.columns import Column, Tokens
from jaxnets.data.sources.folder import FileReader
from jaxnets.data.sources.images import ImageFiles
from jaxnets.data.sources.layout import visible_files
from jaxnets.data.sources.sounds import SoundFiles
from jaxnets.data.sources.texts import read_texts
from jaxnets.errors import UserError
from jaxnets.files import check_path

__all__ = ["Example", "list_files", "read_examples"]

#: Files that are read, or about to be, while the caller works on those before.
_AHEAD = 128

_READERS: Mapping[str, FileReader] = {"image": ImageFiles(), "sound": SoundFiles()}


class Example(NamedTuple):
    """What a file holds: where it stands, and its stored row, or (a text) why it can't be used."""

    source: str
    row: np.ndarray | str


def list_files(names: Iterable[str | Path]) -> list[Path]:
    """The files that names mean: a file, all in a folder at any depth, or what a pattern matches.

    Args:
      names: paths, or patterns such as `pictures/*.jpg` and `pictures/**/*.jpg`. Hidden files of a
        folder are left out.

    Returns:
      The files in the order of the names, those of a folder or a pattern sorted. A path where
      nothing is stands for itself, so that whoever reads it can say so.
    """
    paths: list[Path] = []
    for name in names:
        check_path(name, "the file")
        path = Path(name).expanduser()
        if path.is_dir():
            paths += sorted(visible_files(path))
        elif not os.path.lexists(path) and glob.has_magic(str(path)):
            matches = glob.glob(str(path), recursive=True)
            paths += sorted(Path(match) for match in matches if not os.path.isdir(match))
        else:
            paths.append(path)
    return paths


def read_examples(
    paths: Sequence[Path], column: Column, reader: FileReader | None = None
) -> Iterator[Example]:
    """The examples in files, in their order, read and decoded by threads ahead of the caller.

    Args:
      paths: images, sounds, or texts: a file of texts is a table (CSV, TSV, JSON lines), each line
        of which is an example, or one text.
      column: of the network's inputs; rows are of it.
      reader: of files of its kind; by default the one that reads folders of them.

    Raises:
      UserError: for a kind of data that is not in files.
    """
    if column.kind not in ("tokens", *_READERS):
        raise UserError(f"rows of {column.kind} can't be read from files; give arrays")

    def read(path: Path) -> list[Example]:
        if not os.path.lexists(path):
            return [Example(str(path), "there is no such file")]
        if isinstance(column, Tokens):
            return [
                Example(where, fault or column.rows([text])[0])
                for where, text, fault in read_texts(path)
            ]
        return [Example(str(path), (reader or _READERS[column.kind]).row(path, column))]

    waiting: deque[Future[list[Example]]] = deque()
    with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
        warnings.filterwarnings("ignore", module=r"PIL\.")  # see `folder`
        rest: Any = iter(paths)
        try:
            for path in rest:
                waiting.append(pool.submit(read, path))
                if len(waiting) == _AHEAD:
                    break
            while waiting:
                yield from waiting.popleft().result()
                waiting.extend(pool.submit(read, path) for path in (next(rest, None),) if path)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
