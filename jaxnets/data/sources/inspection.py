"""Faultless and faulty pictures, and masks of the faults, out of a folder."""

import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxnets.columns import Image
from jaxnets.data.dataset import DataSet, Split
from jaxnets.data.listing import some_of, told_bad
from jaxnets.data.sources.folder import load_files, root_of, set_files_apart
from jaxnets.data.sources.images import Header, ImageFiles
from jaxnets.data.sources.layout import File, Layout, visible_files
from jaxnets.errors import UserError

__all__ = ["GOOD", "Inspection", "WholePictures", "load_inspection", "parts_of", "starts"]

#: Folder, and class, of faultless pictures; its label is 0.
GOOD = "good"
#: Fewer faultless pictures say nothing of how they vary.
_FEWEST = 10
_MASKS = "ground_truth"
#: From which ratio on it is told that pictures are distorted.
_DISTORTED = 1.1


@dataclass(frozen=True)
class WholePictures(ImageFiles):
    """Images that are resized as a whole: both sides to the size asked for, and nothing cut off.

    A fault may be at the edge, so that cropping would lose it; oblong pictures are distorted.
    """

    whole: bool = True  # tells its rows from those of `ImageFiles` in the cache

    def fitted(self, image: Any, size: tuple[int, int]) -> Any:
        """The picture in (width, height), by bicubic interpolation."""
        from PIL import Image as Pillow

        return image.resize(size, Pillow.Resampling.BICUBIC)

    def changed(self, headers: Sequence[Header], column: Image) -> list[str]:
        """How far pictures are distorted."""
        height, width, _ = column.shape
        ratios = np.array([h.size[1] / h.size[0] for h in headers]) * height / width
        most = float(np.maximum(ratios, 1 / ratios).max())
        if most < _DISTORTED:
            return []
        return [
            f"{height}x{width} distorts pictures, by at most {most:.1f} to 1: they are resized as "
            "a whole, and nothing is cut off"
        ]


@dataclass(frozen=True)
class _Masks(ImageFiles):
    """Masks, resized by nearest neighbours."""

    def fitted(self, image: Any, size: tuple[int, int]) -> Any:
        from PIL import Image as Pillow

        return image.resize(size, Pillow.Resampling.NEAREST)


@dataclass(frozen=True)
class Inspection:
    """Pictures to inspect.

    Attributes:
      dataset: "train" has faultless pictures alone, "test" faulty ones too, where there are any;
        the first class is `GOOD`, the others are kinds of faults.
      masks: path of each test picture's mask, in their order; None where it has none.
      paths: of the test pictures.
    """

    dataset: DataSet
    masks: Sequence[Path | None]
    paths: Sequence[Path]

    def masked(self) -> tuple[np.ndarray, np.ndarray]:
        """The rows of test pictures whose faulty pixels are known, and which pixels these are.

        Faultless pictures without a mask have no such pixel.

        Returns:
          [M] positions, and [M, H, W] bool: masks in the pictures' size, by nearest neighbours. A
          pixel is faulty if it is brighter than half of its mask's brightest.
        """
        test = self.dataset.splits["test"]
        height, width, _ = test.inputs.shape[1:]
        rows = [i for i, m in enumerate(self.masks) if m is not None or not test.target[i]]
        column, reader = Image((height, width, 1)), _Masks()

        def read(row: int) -> np.ndarray:
            path = self.masks[row]
            if path is None:
                return np.zeros((height, width), bool)
            mask = reader.row(path, column)
            if isinstance(mask, str):
                raise UserError(f"the mask {path} can't be used: {mask}")
            return mask[..., 0] > mask.max() / 2

        with ThreadPoolExecutor() as pool:
            return np.array(rows, np.int64), np.stack([*pool.map(read, rows)])


def load_inspection(
    name: str,
    *,
    image_size: tuple[int, int],
    channels: int | None = None,
    background: str | None = None,
) -> Inspection:
    """Reads a folder with faultless and, perhaps, faulty pictures.

    Either it is laid out as MVTec AD is (train/good, test/good, test/FAULT), or it has a sub-folder
    `good`, and any other is a kind of fault. Where there is no test/good, a fifth of the faultless
    pictures is set apart for testing, always the same, copies on one side. Masks are
    ground_truth/FAULT/NAME_mask.png (or NAME.png) in either case.

    Args:
      name: "folder:PATH".
      image_size: (height, width) that pictures are resized to, see `WholePictures`.
      channels: 1 or 3 to convert to; by default 1 where all files are grey.
      background: colour that transparent pictures are laid on; by default white.

    Raises:
      UserError: the folder is not laid out so, has too few faultless pictures, files that can't be
        used, masks without a picture or of another size than it.
    """
    if not name.startswith("folder:") or name == "folder:":
        raise UserError(f"--data {name!r} is no folder of pictures: write --data folder:PATH")
    root = root_of(name)
    layout = _layout(root)
    test = [file.path for file in layout.splits["test"]]
    masks = _masks(root, layout)
    with ThreadPoolExecutor() as pool, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        _check_sizes(root, {m: p for p, m in zip(test, masks, strict=True) if m}, pool)
    reader = WholePictures(image_size, channels, background or "white")
    dataset = load_files(name, reader, skip_bad=False, layout=layout)
    return Inspection(dataset, masks, test)


def _layout(root: Path) -> Layout:
    """Which pictures are learnt from and which are for testing; the first class is `GOOD`."""
    if not root.is_dir():
        raise UserError(
            f"{root} is {'a file' if root.exists() else 'not there'}; name a folder with "
            f"train/{GOOD}, or with {GOOD}"
        )
    parted = (root / "train" / GOOD).is_dir()
    good = _files(root / "train" / GOOD if parted else root / GOOD)
    if not good:
        raise UserError(
            f"{root} has no faultless picture: put them into train/{GOOD} (and what is for testing "
            f"into test/{GOOD} and test/FAULT), or into {GOOD} beside a folder for each fault"
        )
    home = root / "test" if parted else root
    kinds = sorted(p.name for p in home.iterdir() if p.is_dir()) if home.is_dir() else []
    faults = {kind: _files(home / kind) for kind in kinds if kind not in (GOOD, _MASKS)}
    faults = {kind: files for kind, files in faults.items() if files}
    tested, notes = _files(home / GOOD) if parted else [], []
    if not tested:
        first, second = set_files_apart(good)
        tested, good = [good[i] for i in second], [good[i] for i in first]
        notes.append(f"{len(tested):,} of the faultless pictures are set apart for testing")
    if len(good) < _FEWEST or not tested:
        raise UserError(
            f"{root} has {len(good)} faultless pictures to learn from, and {_FEWEST} or more are "
            "needed, besides those for testing"
        )
    if not faults:
        notes.append("there is no faulty picture: nothing but a threshold is learnt")
    others = [p for p in (root / "train").iterdir() if p.name != GOOD] if parted else []
    if others:
        notes.append(f"not used: {some_of(f'train/{p.name}' for p in sorted(others))}")
    every = [(GOOD, tested), *faults.items()]
    files = [File(path, label) for label, (_, paths) in enumerate(every) for path in paths]
    splits = {"train": [File(path, 0) for path in good], "test": files}
    return Layout(splits, tuple(kind for kind, _ in every), tuple(notes))


def _files(folder: Path) -> list[Path]:
    """The files in a folder, none where it is not there."""
    return sorted(visible_files(folder), key=lambda p: p.parts) if folder.is_dir() else []


def _masks(root: Path, layout: Layout) -> list[Path | None]:
    """The mask of each test picture; None where it has none."""
    names = layout.class_names
    pictures: dict[tuple[str, str], list[Path]] = defaultdict(list)
    for file in layout.splits["test"]:
        pictures[names[file.label], file.path.stem].append(file.path)
    masks: dict[Path, Path] = {}
    for path in _files(root / _MASKS):
        kind = path.relative_to(root / _MASKS).parts[0]
        stem = path.stem.removesuffix("_mask")
        matches = pictures.get((kind, stem)) or pictures.get((kind, path.stem), [])
        if len(matches) != 1 or matches[0] in masks:
            what = "no picture" if not matches else "more than one picture or mask"
            raise UserError(
                f"the mask {path.relative_to(root)} has {what} of its name: {kind}/{stem} must be "
                "one of those for testing; rename or remove it"
            )
        masks[matches[0]] = path
    return [masks.get(file.path) for file in layout.splits["test"]]


def _check_sizes(root: Path, pairs: Mapping[Path, Path], pool: ThreadPoolExecutor) -> None:
    """Fails for masks (-> their pictures) that can't be used, or have another size."""
    reader = ImageFiles()

    def headers(paths: Any) -> Iterator[Header | str]:
        return pool.map(reader.header, paths)

    read = list(zip(pairs.items(), headers(pairs), headers(pairs.values()), strict=True))
    if bad := {mask: header for (mask, _), header, _ in read if isinstance(header, str)}:
        raise UserError(f"{root} has {told_bad(root, bad)}; remove or replace them")
    for (mask, picture), of_mask, of_picture in read:
        if isinstance(of_picture, Header) and isinstance(of_mask, Header):
            (h, w), (height, width) = of_mask.size, of_picture.size
            if (h, w) != (height, width):
                raise UserError(
                    f"the mask {mask.relative_to(root)} is {h}x{w} and its picture "
                    f"{picture.relative_to(root)} {height}x{width} (height x width); make them "
                    "alike, or remove the mask"
                )


def parts_of(images: np.ndarray, size: int, stride: int, most: int, seed: int) -> Split:
    """Square parts of images as examples of their own.

    Args:
      images: [N, H, W, C] uint8, read a few at a time.
      size: side of a part.
      stride: step from one to the next; the last of a row or column ends at the edge.
      most: so many at most are kept, chosen by chance.
      seed: of that choice.
    """
    count, height, width, channels = images.shape
    corners = [(y, x) for y in starts(height, size, stride) for x in starts(width, size, stride)]
    total = count * len(corners)
    chosen = np.sort(np.random.default_rng(seed).permutation(total)[:most])
    parts = np.empty((len(chosen), size, size, channels), np.uint8)
    for place, number in enumerate(chosen):
        y, x = corners[number % len(corners)]
        parts[place] = images[number // len(corners), y : y + size, x : x + size]
    return Split(parts)


def starts(length: int, size: int, stride: int) -> list[int]:
    """Where windows of a size begin along an axis, so that they cover it."""
    return [*range(0, length - size, stride), length - size]
