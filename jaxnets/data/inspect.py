"""What is in a data set: counts, duplicates, statistics, and a picture of it."""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jaxnets.columns.boxes import IGNORED, NOTHING
from jaxnets.data.dataset import DataSet, Split
from jaxnets.data.dividing import row_hashes
from jaxnets.errors import UserError
from jaxnets.files import check_path, write_files
from jaxnets.media import report
from jaxnets.media.boxes import drawn

__all__ = ["contact_sheet", "describe", "example_page"]

#: Of a sheet: pixels of a cell's side at least, and in all.
_CELL, _MAX_PIXELS = 64, 1 << 30
_SEEN = 1000


def describe(dataset: DataSet) -> dict[str, Any]:
    """Counts and statistics, as plain values that JSON can hold.

    Returns:
      `name`, `num_classes`, `class_names`, `fingerprint`, `skipped`; `splits`, for each of them
      `count`, `shape` of one input, `duplicates` (inputs that are byte for byte an earlier one of
      the split) and the statistics of its columns, such as `class_counts` by class name, or `mean`
      and `std` of each channel of images; `duplicates_across`: for each pair of splits, how many
      inputs of the second are also in the first. Of a set that is not decoded ahead, statistics
      are of about a thousand examples (`seen`), and duplicates are not looked for (None).
    """
    seen = {name: _some(split) for name, split in dataset.splits.items()}
    whole = not any(split.lazy for split in dataset.splits.values())
    hashes = {name: Counter(row_hashes(of.inputs)) for name, of in seen.items() if whole}
    return {
        "name": dataset.name,
        "num_classes": dataset.num_classes,
        "class_names": list(dataset.class_names),
        "fingerprint": dataset.fingerprint,
        "skipped": dataset.skipped,
        "splits": {
            name: {
                "count": len(split),
                "shape": list(split.inputs.shape[1:]),
                "duplicates": len(split) - len(hashes[name]) if whole else None,
                "seen": len(seen[name]),
                **{
                    what: value
                    for array, rows in {**split.arrays, "inputs": seen[name].inputs}.items()
                    for what, value in split.columns[array].statistics(rows).items()
                },
            }
            for name, split in dataset.splits.items()
        },
        "duplicates_across": {
            f"{first}/{second}": sum(n for h, n in hashes[second].items() if h in hashes[first])
            for first, second in itertools.combinations(dataset.splits, 2)
            if whole
        },
    }


def _some(split: Split) -> Split:
    """The split; of one that is not decoded ahead, about a thousand decoded examples."""
    if not split.lazy:
        return split
    part = split.take(slice(None, None, max(1, len(split) // _SEEN)))
    return part.replace(inputs=np.asarray(part.inputs))


def example_page(
    dataset: DataSet, path: str | Path, per_class: int = 10, split: str = "train"
) -> None:
    """Writes an HTML page with examples of each class, as the column of the inputs shows them.

    Args:
      dataset: what to show.
      path: file to write.
      per_class: examples of a class.
      split: where the examples come from.

    Raises:
      UserError: the file can't be written.
    """
    part, sections = dataset.splits[split], []
    for label, name in enumerate(dataset.class_names):
        places = np.flatnonzero(part.target == label)[:per_class]
        section = part.columns["inputs"].show(part.inputs[places], list(map(str, places)))
        sections.append(dataclasses.replace(section, heading=name))  # type: ignore[type-var]
    _write(
        path, lambda: report.html_report(path, f"{dataset.name}: examples for {split}", sections)
    )


def contact_sheet(
    dataset: DataSet, path: str | Path, per_class: int = 10, split: str = "train"
) -> None:
    """Writes a PNG with one row for each class: its name and its first `per_class` examples.

    Of pictures with boxes, those that have an object of the class, with all their boxes.

    Args:
      dataset: what to show.
      path: file to write.
      per_class: examples in a row; a class with fewer leaves the rest of its row black.
      split: where the examples come from.

    Raises:
      UserError: no such split, `per_class` is not positive or makes a sheet of more than a
        gigapixel, or the file can't be written.
    """
    if split not in dataset.splits:
        raise UserError(
            f'{dataset.name} has no split "{split}"; it has {", ".join(dataset.splits)}'
        )
    if per_class < 1:
        raise UserError(f"per_class must be 1 or more, not {per_class}")
    part = dataset.splits[split]
    height, width, depth = part.inputs.shape[1:]
    boxes = part.columns["target"].kind == "boxes"
    cell = dataset.num_classes * max(height, width, _CELL) ** 2
    if per_class * cell > _MAX_PIXELS:
        most = _MAX_PIXELS // cell
        advice = f"choose at most {most}" if most else "resize the images"
        raise UserError(
            f"{per_class} examples of each class make a sheet of more than a gigapixel; {advice}"
        )
    depth = 3 if boxes else depth
    cells = np.zeros((dataset.num_classes, per_class, height, width, depth), np.uint8)
    for label in range(dataset.num_classes):
        if boxes:
            there = (part.target[..., 4] == label) & (part.target[..., 5] != NOTHING)
            rows = np.flatnonzero(there.any(axis=1))[:per_class]
            for place, row in enumerate(rows):
                cells[label, place] = _with_boxes(part.inputs[row], part.target[row])
        else:
            rows = np.flatnonzero(part.target == label)[:per_class]
            cells[label, : len(rows)] = part.inputs[rows]
    names = [name[:15] for name in dataset.class_names]
    sheet = report.grid_png(cells.reshape(-1, *cells.shape[2:]), per_class, row_labels=names)
    _write(path, lambda: write_files({Path(path): sheet}))


def _with_boxes(picture: np.ndarray, row: np.ndarray) -> np.ndarray:
    """A picture with the boxes of a row [M, 6] of `Boxes`."""
    there = row[row[:, 5] != NOTHING]
    height, width = picture.shape[:2]
    corners = there[:, :4] * [width, height, width, height]
    return drawn(picture, corners, there[:, 4], ignored=there[:, 5] == IGNORED)


def _write(path: str | Path, write: Callable[[], object]) -> None:
    check_path(path, "the file of examples")
    try:
        write()
    except OSError as error:
        raise UserError(f"{path} can't be written: {error.strerror or error}") from error
