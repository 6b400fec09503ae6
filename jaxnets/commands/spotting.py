"""Real and generated pictures as one data set, in which their files don't tell them apart."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from jaxnets.columns import Classes, Image
from jaxnets.commands import checks, common
from jaxnets.commands.configs.options import ImageOptions
from jaxnets.commands.configs.spot import Detector, Sides
from jaxnets.data import DATA_SOURCES, DataSet, Split
from jaxnets.data.dividing import row_hashes
from jaxnets.data.order import generator
from jaxnets.data.sources import size_of
from jaxnets.data.sources.folder import root_of
from jaxnets.data.sources.images import Header, ImageFiles, reread
from jaxnets.data.sources.layout import find_layout
from jaxnets.errors import UserError
from jaxnets.run.load import Description, load_run, read_description
from jaxnets.run.trained import TrainedGenerator

__all__ = ["CLASSES", "Drawn", "draw", "load", "make_alike"]

CLASSES = ("real", "generated")

#: Split -> its share of the pictures, and how many of each generator it needs at least.
_SHARES, _FEWEST = {"train": 0.8, "test": 0.2}, {"train": 20, "test": 5}
#: Share of those for training that is held out for the threshold.
_HELD_OUT = 0.2
#: Quality of the JPEG that all go through, where none of them is one.
_QUALITY = 90
#: The shortest side that a picture is made to have where none is asked for.
_SMALLEST = 8

#: The pictures [N, H, W, C] uint8 of each split.
_Pool = dict[str, np.ndarray]


def load(config: Detector) -> DataSet:
    """The pictures of a detector: "train", "validation" for the threshold, and "test".

    Raises:
      UserError: if the two sides can't be compared, or there are too few pictures.
    """
    _check_names(config)
    headers = {config.real: _headers(config.real, config)}
    headers |= {name: _headers(name, config, generated=True) for name in config.generated}
    column, told = _alike(config, headers)
    drawn = draw(config, config, column, ("train", "test"))
    return make_alike(drawn._replace(notes=(*told, *drawn.notes)), column)


class Drawn(NamedTuple):
    """Pictures of both sides, as they are.

    Attributes:
      sides: what they are of.
      pools: pictures [N, H, W, C] uint8 by split: of the real ones, then of each generator.
      notes: what their owner should know.
    """

    sides: Sides
    pools: Sequence[Mapping[str, np.ndarray]]
    notes: tuple[str, ...]


def draw(sides: Sides, options: ImageOptions, column: Image, splits: Sequence[str]) -> Drawn:
    """Draws pictures of folders and data sets, and asks generators for samples.

    Samples for a test alone have other latents than those of a training with the same seed.

    Args:
      sides: what is compared.
      options: how images are read.
      column: what every picture becomes in the end.
      splits: "train" and "test", or one of them.

    Raises:
      UserError: if a side can't be read.
    """
    _check_names(sides)
    wanted = {split: max(1, int(_SHARES[split] * sides.pictures)) for split in splits}
    checks.images_fit(2 * sum(wanted.values()), column.shape, per_value=3, per_image=0)
    height, width, channels = column.shape
    options = dataclasses.replace(
        options, image_size=(height, width), channels=channels, background=column.background
    )
    real = _dataset(sides.real, options)
    pool, labels = _drawn(real, wanted, sides.seed)
    each = {split: len(rows) // len(sides.generated) for split, rows in pool.items()}
    seed = sides.seed if "train" in splits else 2**31 - 1 - sides.seed
    pools = [pool]
    for name in sides.generated:
        if name.startswith("folder:"):
            pools.append(_drawn(_dataset(name, options), each, sides.seed)[0])
        else:
            classes = labels if _check_generator(name).class_names == real.class_names else {}
            pools.append(_samples(load_run(name), each, classes, seed))
    return Drawn(sides, pools, real.notes)


def make_alike(
    drawn: Drawn, column: Image, change: Callable[[np.ndarray], np.ndarray] = lambda rows: rows
) -> DataSet:
    """Equally many pictures of both sides, and of each generator, all made alike.

    Args:
      drawn: the pictures.
      column: what every picture becomes.
      change: what is done to pictures before they are made alike.

    Returns:
      A data set with the columns "inputs", "target" (of `CLASSES`) and "source": 0 for real
      pictures, else the number of the generator. A fifth of "train" becomes "validation".

    Raises:
      UserError: if there are too few pictures.
    """
    sides = drawn.sides
    pools = [{k: reread(change(rows), column) for k, rows in p.items()} for p in drawn.pools]
    pools, copies = _without_copies(pools)
    _make_equal(pools, sides, copies)
    for pool in pools:
        if "train" in pool:
            held_out = int(_HELD_OUT * len(pool["train"]))
            pool["validation"], pool["train"] = np.split(pool["train"], [held_out])
    named = {"inputs": column, "target": Classes(CLASSES)}
    named["source"] = Classes(("real", *sides.generated))
    made = {}
    for split in pools[0]:
        counts = [len(pool[split]) for pool in pools]
        source = np.repeat(np.arange(len(pools), dtype=np.int32), counts)
        rows = np.concatenate([pool[split] for pool in pools])
        made[split] = Split(rows, (source > 0).astype(np.int32), source=source, columns=named)
    return DataSet(f"{sides.real} or generated", made, notes=(*drawn.notes, *copies))


def _check_names(sides: Sides) -> None:
    """Looks whether each name stands for a side, and for one alone."""
    if not sides.generated:
        raise UserError("--generated needs the folder of a run of `generate`, or folder:PATH")
    if sides.real.startswith(("sounds:", "texts:")):
        raise UserError(f"--real {sides.real} holds no images; name a folder: or data set of some")
    counts = Counter([sides.real, *sides.generated])
    if twice := [name for name, count in counts.items() if count > 1]:
        raise UserError(f"{twice[0]} is named twice; name each source of pictures once")


def _dataset(name: str, options: ImageOptions) -> DataSet:
    """Images of a name; those that ship take no size, and get theirs later."""
    if not name.startswith(("folder:", "tfds:")):
        options = dataclasses.replace(options, image_size=None, channels=None, background=None)
    return common.load_data(options, name)


def _check_generator(name: str) -> Description:
    """What the generator of a run is."""
    if name in DATA_SOURCES or f"{name.partition(':')[0]}:" in DATA_SOURCES:
        raise UserError(f"--generated {name} must be the folder of a run, or folder:PATH")
    told = read_description(name)
    if told.kind != "generator" or told.inputs.kind != "image":
        raise UserError(f"{name} has trained a {told.kind}, and a generator of images is needed")
    return told


def _headers(name: str, options: ImageOptions, *, generated: bool = False) -> list[Header]:
    """Sizes, colours and formats of the pictures of a source, as they are."""
    if name.startswith("folder:"):
        parts = find_layout(root_of(name), "image").splits.values()
        with ThreadPoolExecutor() as pool:
            of_all = [*pool.map(ImageFiles().header, [file.path for p in parts for file in p])]
        if headers := [header for header in of_all if isinstance(header, Header)]:
            return headers
        _dataset(name, options)  # says what is wrong with each
    column = (
        _check_generator(name).inputs if generated else _dataset(name, options).columns["inputs"]
    )
    height, width, channels = column.shape
    return [Header((height, width), channels == 1, False)]


def _alike(
    config: Detector, headers: Mapping[str, Sequence[Header]]
) -> tuple[Image, tuple[str, ...]]:
    """What all pictures become, and what there is to say of it.

    Where sizes differ, all are made so small that each is shrunk by two or more: then they have
    lost the same frequencies, and none has been enlarged. By four if they are in colour and some
    come from JPEG files, which store colours at half the size. Of the same microscope pictures as
    PNG of 96 pixels and as JPEG of 72, a CNN told the two apart with an area under the ROC curve of
    0.66 after shrinking by two, of 0.53 by four, and of 0.51 in grey by two.

    Raises:
      UserError: if some are too small, or one side is grey and the other in colour.
    """
    sizes = sorted({header.size for of in headers.values() for header in of})
    grey = {name: all(header.grey for header in of) for name, of in headers.items()}
    channels = config.channels or (1 if all(grey.values()) else 3)
    found = [h.quality for of in headers.values() for h in of if h.quality is not None]
    shrunk = 4 if channels == 3 and found else 2
    side = min(min(size) for size in sizes) // shrunk
    size = sizes[0] if len(sizes) == 1 else (side, side)
    if config.image_size is not None:
        size = size_of(config.image_size)
    elif min(size) < _SMALLEST:
        raise UserError(
            f"the smallest picture is {sizes[0][0]}x{sizes[0][1]}, and {min(size)} pixels show too "
            "little: leave small pictures out, or choose --image-size"
        )
    for name, of in headers.items():
        least = min(header.size[0] for header in of), min(header.size[1] for header in of)
        if least[0] < size[0] or least[1] < size[1]:
            raise UserError(
                f"{name} has pictures of {least[0]} or {least[1]} pixels, which would have to be "
                f"enlarged to {size[0]}x{size[1]} and stand out: choose a smaller --image-size"
            )
    if config.channels != 1 and len({*grey.values()}) > 1:
        one, other = (next(n for n, is_grey in grey.items() if is_grey is g) for g in (True, False))
        raise UserError(
            f"{one} is grey and {other} in colour, which any network would see: choose --channels 1"
        )
    qualities = {config.quality} if config.quality else {_QUALITY}
    if found and not config.quality:
        qualities = {int(np.percentile(found, 10 * tenth)) for tenth in range(11)}
    told = " to ".join(str(f(qualities)) for f in (min, max)[: len(qualities)])
    notes = [
        f"all pictures become {size[0]}x{size[1]}, {'grey' if channels == 1 else 'in colour'}, and "
        f"go through JPEG of quality {told}"
    ]
    if len(sizes) > 1 and shrunk * max(size) > min(map(min, sizes)):
        notes.append(
            f"some pictures are shrunk by less than {shrunk}, and others by more, which may show: "
            f"--image-size {side} would hide it"
        )
    if config.quality and found and {*found} != {config.quality}:
        notes.append(
            f"some pictures are JPEGs of quality {min(found)} to {max(found)}, which may show: "
            "without --quality, all go through the same"
        )
    for name, of in headers.items() if len(sizes) > 1 or found else ():
        formats = Counter(header.format for header in of if header.format)
        low, high = (f(header.size for header in of) for f in (min, max))
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in formats.most_common()) or "samples"
        notes.append(f"{name}: {low[0]}x{low[1]} to {high[0]}x{high[1]}, {kinds}")
    background = config.background or "white"
    return Image((*size, channels), background, (*sorted(qualities),)), tuple(notes)


def _drawn(
    dataset: DataSet, counts: Mapping[str, int], seed: int
) -> tuple[_Pool, dict[str, np.ndarray]]:
    """At most so many pictures of each split, drawn by chance; their classes, if they have any."""
    rows, labels = {}, {}
    for split, count in counts.items():
        part = dataset.splits[split]
        chosen = generator(seed, 0).permutation(len(part))[:count]
        rows[split] = part.inputs[chosen]
        if part.labelled:
            labels[split] = part.target[chosen]
    return rows, labels


def _samples(
    trained: TrainedGenerator,
    counts: Mapping[str, int],
    labels: Mapping[str, np.ndarray],
    seed: int,
) -> _Pool:
    """So many samples for each split, of classes in these shares; by default of all in turn."""
    total, classes = sum(counts.values()), None
    if trained.conditional and labels:
        classes = np.concatenate([np.resize(labels[k], count) for k, count in counts.items()])
    made = trained.sample(max(1, total), classes, seed=seed)[:total]
    ends = np.cumsum([*counts.values()])[:-1]
    return dict(zip(counts, np.split(made, ends), strict=True))


def _without_copies(pools: Sequence[_Pool]) -> tuple[list[_Pool], list[str]]:
    """The pools without pictures that both sides have, each other picture once; and what is said.

    Args:
      pools: of the real pictures, then of each generator.
    """
    hashes = [{split: row_hashes(rows) for split, rows in pool.items()} for pool in pools]
    real, *others = ({h for part in of.values() for h in part} for of in hashes)
    both, seen, kept = real.intersection(set().union(*others)), set[bytes](), list[_Pool]()
    repeated = 0
    for pool, of_pool in zip(pools, hashes, strict=True):
        kept.append({})
        for split, rows in pool.items():
            new = np.ones(len(rows), bool)
            for place, row in enumerate(of_pool[split]):
                new[place] = row not in both and row not in seen
                repeated += row in seen
                seen |= {row} - both
            kept[-1][split] = rows[new]
    told = [f"{len(both):,} pictures are on both sides, and are left out"] if both else []
    return kept, told + ([f"{repeated:,} exact copies are left out"] if repeated else [])


def _make_equal(pools: Sequence[_Pool], sides: Sides, told: Sequence[str]) -> None:
    """Cuts the pools down to as many of each generator, and as many real ones as of them all.

    Raises:
      UserError: if there are too few.
    """
    for split in pools[0]:
        shares = [len(pools[0][split]) // len(sides.generated)]
        shares += [len(pool[split]) for pool in pools[1:]]
        if min(shares) < _FEWEST[split]:
            name = [sides.real, *sides.generated][int(np.argmin(shares))]
            many = _FEWEST[split] * (len(sides.generated) if name == sides.real else 1)
            count = len(pools[int(np.argmin(shares))][split])
            raise UserError(
                f"{name} has {count:,} usable pictures for {split}ing, and at least {many} are "
                f"needed{''.join(f'; {sentence}' for sentence in told)}"
            )
        for number, pool in enumerate(pools):
            count = min(shares) * (len(sides.generated) if number == 0 else 1)
            pool[split] = pool[split][:count]
