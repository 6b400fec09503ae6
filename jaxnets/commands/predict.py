"""Tell the classes of files, faulty parts or the objects in pictures, by a trained network."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from jaxnets.commands import populations
from jaxnets.commands.configs import constraints
from jaxnets.commands.configs.use import Predict
from jaxnets.commands.session import Session
from jaxnets.data.sources.single import list_files
from jaxnets.errors import UserError
from jaxnets.files import check_writable, cleaning, new_folder, write_files
from jaxnets.run.detector import Found, TrainedDetector
from jaxnets.run.inspector import Inspected, TrainedInspector
from jaxnets.run.load import load_run, read_description
from jaxnets.run.trained import Prediction, TrainedClassifier, Unreadable

Record = Prediction | Inspected | Found | Unreadable


def run(config: Predict, session: Session) -> int:
    """The command; 1 if some of the files could not be used."""
    constraints.check(config)
    for flag, path in (("--json", config.json), ("--csv", config.csv)):
        if path is not None:
            check_writable(path, flag)
    member = populations.name_of(config.member)
    kind = read_description(config.run, member=member).kind
    if kind == "generator":
        raise UserError(
            f"{config.run} is a run of `generate`; predictions need one of `classify`, `detect` or "
            "`inspect`"
        )
    if config.out is not None and kind == "classifier":
        raise UserError("--out is for pictures, which runs of `inspect` and `detect` make")
    paths = list_files(config.files)
    if not paths:
        raise UserError(f"there are no files in {', '.join(config.files)}")
    trained: Any = load_run(config.run, member=member)
    names = heat_names(config.out, paths) if config.out is not None else {}
    good = bad = 0
    with contextlib.ExitStack() as stack:
        writers: list[Callable[[Record], object]] = []
        if config.json is not None:
            writers.append(stack.enter_context(_json(config.json, config.top, trained)))
        if config.csv is not None:
            top = min(config.top, len(trained.class_names))
            writers.append(stack.enter_context(_csv(config.csv, top, trained)))
        if config.out is not None:
            writers.append(partial(_picture, trained, names))
        for record in trained.stream(paths):
            for write in writers:
                write(record)
            if isinstance(record, Unreadable):
                bad += 1
                print(f"{record.source}: can't be used: {record.reason}", file=sys.stderr)
                continue
            good += 1
            print(f"{record.source}: {_told(record, config.top, trained)}")
        if not good:
            raise UserError(f"none of the {bad:,} files can be used")
    if bad:
        print(f"{bad:,} of {good + bad:,} files can't be used", file=sys.stderr)
    return 1 if bad else 0


def _told(record: Prediction | Inspected | Found, top: int, trained: Any) -> str:
    """What is said of a file, in a line."""
    if isinstance(record, Inspected):
        return f"{_verdict(record)}, score {record.score:.4g}"
    if isinstance(record, Found):
        counts = Counter(record.names).most_common()
        return ", ".join(f"{count} {name}" for name, count in counts) or "nothing"
    shares = ", ".join(f"{name} {share:.1%}" for name, share in record.top(top))
    threshold = trained.threshold
    if threshold is None:
        return shares
    counts = f"from {threshold:.1%} on it counts as {record.class_names[1]}"
    return f"estimate: {record.name} ({shares}; {counts})"


def _object(record: Found, number: int) -> dict[str, Any]:
    """An object of a picture as JSON has it."""
    return {
        "class": record.names[number],
        "score": round(float(record.scores[number]), 4),
        "box": [round(float(x), 1) for x in record.boxes[number]],
    }


def _verdict(record: Inspected) -> str:
    return "faulty" if record.faulty else "faultless"


def heat_names(folder: Path, paths: Sequence[Path]) -> dict[str, Path]:
    """File -> where its heat map goes: by its path below the folder that all files share.

    Raises:
      UserError: for two files that would share a heat map, or a folder that can't be written.
    """
    check_writable(folder / "heat-map.png", "--out")
    folders = [str(path.absolute().parent) for path in paths]
    shared = Path(os.path.commonpath(folders))
    names = {str(path): folder / f"{path.absolute().relative_to(shared)}.png" for path in paths}
    if len(set(names.values())) < len(names):
        raise UserError("two of the files would have the same heat map; name each file once")
    return names


def _picture(trained: Any, names: Mapping[str, Path], record: Record) -> None:
    """Writes the picture of a record with its heat map or its boxes."""
    from PIL import Image

    if not isinstance(record, Unreadable):
        buffer = io.BytesIO()
        Image.fromarray(trained.picture(record)).save(buffer, "PNG")
        write_files({names[record.source]: buffer.getvalue()})


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[Callable[[str], None]]:
    """Gives what writes texts to a file, which takes its place when the block has ended well."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}.tmp")

    @contextlib.contextmanager
    def named() -> Iterator[None]:
        try:
            yield
        except OSError as error:  # a write that fails does not know the file's name
            raise OSError(error.errno, error.strerror, str(path)) from error

    with new_folder(path.parent), cleaning(partial(fresh.unlink, missing_ok=True)):
        with named():
            file = fresh.open("w", encoding="utf-8", newline="")

        def write(text: str) -> None:
            with named():
                file.write(text)

        try:
            yield write
        finally:
            with named():
                file.close()
        os.replace(fresh, path)


@contextlib.contextmanager
def _json(
    path: Path, top: int, trained: TrainedInspector | TrainedClassifier | TrainedDetector
) -> Iterator[Callable[[Record], object]]:
    """Writes an object with what is known of the network and a record for each file."""
    about: dict[str, Any] = {**trained.facts, "step": trained.step}
    if isinstance(trained, TrainedInspector):
        about["threshold"] = trained.threshold
    else:
        about["class_names"] = trained.class_names
        if isinstance(trained, TrainedClassifier) and trained.threshold is not None:
            about |= {"what": "estimates", "threshold": trained.threshold}
    with _whole(path) as put:
        put(json.dumps(about, indent=2)[:-2] + ',\n  "predictions": [')
        comma = "\n"

        def write(record: Record) -> None:
            nonlocal comma
            told: dict[str, Any] = {"file": record.source}
            if isinstance(record, Unreadable):
                told["error"] = record.reason
            elif isinstance(record, Found):
                told |= {"height": record.size[0], "width": record.size[1]}
                told["objects"] = [_object(record, i) for i in range(len(record.boxes))]
            elif isinstance(record, Inspected):
                told |= {"faulty": record.faulty, "score": record.score}
            else:
                told |= {"class": record.name, "label": record.label}
                told["probabilities"] = dict(record.top(top))
            put(f"{comma}    {json.dumps(told, ensure_ascii=False)}")
            comma = ",\n"

        yield write
        put("\n  ]\n}\n")


@contextlib.contextmanager
def _csv(path: Path, top: int, trained: Any) -> Iterator[Callable[[Record], object]]:
    """Writes a table with a line for each file that could be used."""
    with _whole(path) as put:

        def row(*cells: Any) -> None:
            line = io.StringIO()
            csv.writer(line, lineterminator="\n").writerow(cells)
            put(line.getvalue())

        further = [f"{what}_{n}" for n in range(2, top + 1) for what in ("class", "probability")]
        if isinstance(trained, TrainedDetector):
            row("file", "class", "score", "left", "top", "right", "bottom")
        elif top:
            row("file", "class", "probability", *further)
        else:  # there are no classes
            row("file", "score", "verdict")

        def write(record: Record) -> None:
            if isinstance(record, Inspected):
                row(record.source, record.score, _verdict(record))
            elif isinstance(record, Found):
                for i in range(len(record.boxes)):
                    told = _object(record, i)
                    row(record.source, told["class"], told["score"], *told["box"])
            elif isinstance(record, Prediction):
                row(record.source, *(part for pair in record.top(top) for part in pair))

        yield write
