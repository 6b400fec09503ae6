"""Data sets that are too large to be decoded ahead: their pictures are read as they are needed."""

import hashlib
import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from jaxnets.columns import Classes, Column, Image, to_json
from jaxnets.data.dataset import DataSet, Split, read_rows
from jaxnets.data.dividing import set_apart
from jaxnets.data.lazy import LazyRows
from jaxnets.data.listing import told_bad
from jaxnets.data.sources.images import ImageFiles
from jaxnets.data.sources.layout import Layout
from jaxnets.data.views import Views
from jaxnets.errors import UserError
from jaxnets.files import cache_dir, write_files

__all__ = ["Decoding", "stream_folder", "stream_tfds"]

#: Files that are decoded before the start; where a size is given, no other header is read.
_LOOKED_AT = 256
_BLOCK = 1024


@dataclass(frozen=True)
class Decoding:
    """When pictures are decoded, and how they are seen in training.

    Attributes:
      ahead: gigabytes that decoded pictures may take in the cache. More are not decoded ahead.
      views: random views, which need the files themselves: then nothing is decoded ahead.
    """

    ahead: float = 2.0
    views: Views = field(default_factory=Views)

    def streams(self, count: int, shape: Sequence[int]) -> bool:
        """Whether so many pictures of that shape are decoded as they are needed."""
        return self.views != Views() or count * int(np.prod(shape)) > self.ahead * 1e9

    def told(self, count: int, shape: Sequence[int]) -> str:
        """Says that they are, and why."""
        size = f"{count:,} images would take {count * int(np.prod(shape)) / 1e6:,.0f} MB decoded"
        why = f"{size} (--decode-ahead is {self.ahead:g} GB)"
        if self.views != Views():
            why = "for random views of the files"
        return f"{why}: each is decoded when it is needed; exact copies are not looked for"


def _row(
    opened: Callable[[Any], Path | io.BytesIO],
    reader: ImageFiles,
    views: Views,
    item: Any,
    column: Any,
    random: np.random.Generator | None,
) -> np.ndarray | str:
    """A row of `LazyRows`: the picture that is opened for an item."""
    return reader.view(opened(item), column, random, views)


def _file(root: bytes, item: bytes) -> Path:
    return Path(os.fsdecode(os.path.join(root, item)))


def _example(source: Any, item: int) -> io.BytesIO:
    return io.BytesIO(source[item]["image"])


def stream_folder(
    name: str, root: Path, layout: Layout, reader: ImageFiles, decoding: Decoding, skip_bad: bool
) -> DataSet | None:
    """The pictures of a folder, unread; None where they are few enough to be decoded ahead.

    Where their size is given, a sample of them is looked at: 100,000 headers take their time.

    Args:
      name: "folder:PATH".
      root: that folder.
      layout: its files.
      reader: of them.
      decoding: when they are decoded.
      skip_bad: leave out those whose headers can't be read, instead of an error.

    Raises:
      UserError: the sizes differ and none is given; or a header can't be read.
    """
    files = [file for part in layout.splits.values() for file in part]
    each = map(reader.header, (file.path for file in files))
    first = next((header for header in each if not isinstance(header, str)), None)
    if first is None or not decoding.streams(len(files), reader.column([first], root).shape):
        return None
    step = 1 if reader.image_size is None else max(1, len(files) // _LOOKED_AT)
    with ThreadPoolExecutor() as pool:
        looked_at = files[::step]
        headers = dict(
            zip(looked_at, pool.map(lambda f: reader.header(f.path), looked_at), strict=True)
        )
        good = [h for h in headers.values() if not isinstance(h, str)] or [first]
        column = reader.column(good, root)
        bad = {file.path: h for file, h in headers.items() if isinstance(h, str)}
        seen = [file.path for file in looked_at if file.path not in bad]
        seen = seen[:: max(1, len(seen) // _LOOKED_AT)]
        rows = pool.map(lambda path: reader.row(path, column), seen)
        bad |= {path: row for path, row in zip(seen, rows, strict=True) if isinstance(row, str)}
    if bad and not skip_bad:
        raise UserError(f"{root} has {told_bad(root, bad)}; remove them or add --skip-bad")
    notes = [*layout.notes, decoding.told(len(files), column.shape)]
    if step > 1:
        notes.append(f"{len(headers):,} of the files were looked at before the start")
    notes += [f"left out: {told_bad(root, bad)}"] * bool(bad) + reader.notes(good, column)
    read = partial(_row, partial(_file, os.fsencode(root)), reader, decoding.views)
    parts: dict[str, Any] = {}
    digest = hashlib.sha256()
    for split, part in layout.splits.items():
        usable = [file for file in part if file.path not in bad]
        start = len(os.fsencode(root)) + 1
        names = [os.fsencode(file.path)[start:] for file in usable]
        for path, file in zip(names, usable, strict=True):
            digest.update(b"%s\0%s\0%d\n" % (split.encode(), path, os.stat(file.path).st_size))
        labels = np.array([file.label for file in usable], np.int32)
        layout.check_usable(root, split, labels, len(bad), reader.what)
        parts[split] = LazyRows(np.array(names), labels, column, read), labels
    return _dataset(name, parts, column, layout.class_names, notes, digest.hexdigest(), len(bad))


def stream_tfds(
    name: str,
    sources: Mapping[str, Sequence[Any]],
    reader: ImageFiles,
    column: Image,
    classes: Sequence[str],
    decoding: Decoding,
    key: str,
) -> DataSet:
    """The examples of TensorFlow Datasets, straight from their shards.

    Their labels are read through once, and kept in the cache.

    Args:
      name: "tfds:NAME".
      sources: split -> random access to its examples, their `image` still encoded.
      reader: decodes them.
      column: of the decoded images.
      classes: names.
      decoding: how they are seen.
      key: a file name that stands for the examples.
    """
    parts: dict[str, Any] = {}
    for split, source in sources.items():
        place = cache_dir() / "labels" / f"{key}-{split}.npy"
        try:
            labels = np.load(place)
        except (OSError, ValueError):
            blocks = (range(i, min(i + _BLOCK, len(source))) for i in range(0, len(source), _BLOCK))
            found = [int(one["label"]) for block in blocks for one in read_rows(source, block)]
            labels = np.array(found, np.int32)
            file = io.BytesIO()
            np.save(file, labels)
            write_files({place: file.getvalue()})
        read = partial(_row, partial(_example, source), reader, decoding.views)
        parts[split] = LazyRows(np.arange(len(source)), labels, column, read), labels
    count = sum(map(len, sources.values()))
    notes = [decoding.told(count, column.shape)]
    return _dataset(name, parts, column, classes, notes, hashlib.sha256(key.encode()).hexdigest())


def _dataset(
    name: str,
    parts: dict[str, tuple[LazyRows, np.ndarray]],
    column: Column,
    classes: Sequence[str],
    notes: Sequence[str],
    content: str,
    skipped: int = 0,
) -> DataSet:
    """The data set; where there is no split to test on, a fifth of each class is."""
    columns = {"inputs": column, "target": Classes(tuple(classes))}
    splits = {
        split: Split(columns=columns, inputs=rows, target=labels)  # type: ignore[arg-type]
        for split, (rows, labels) in parts.items()
    }
    for split, of in splits.items():
        if not len(of):
            raise UserError(f'the split "{split}" has no examples; each split needs some')
    if "test" not in splits:
        train = splits["train"]
        first, second, more = set_apart(train.target, classes)
        splits |= {"train": train.take(first), "test": train.take(second)}
        notes = [*notes, *more]
    told = json.dumps([to_json(column), list(classes), content])
    fingerprint = hashlib.sha256(told.encode()).hexdigest()
    return DataSet(name, splits, skipped=skipped, notes=tuple(notes), fingerprint=fingerprint)
