"""A name -> a data set."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jaxnets.columns.tokens import Unit
from jaxnets.data.dataset import DataSet
from jaxnets.data.sources.folder import load_files
from jaxnets.data.sources.images import MAX_PIXELS, ImageFiles
from jaxnets.data.sources.objects import load_objects
from jaxnets.data.sources.prepared import load_shipped, load_tfds
from jaxnets.data.sources.sounds import SoundFiles
from jaxnets.data.sources.streamed import Decoding
from jaxnets.data.sources.texts import load_texts
from jaxnets.data.views import Views
from jaxnets.errors import UserError
from jaxnets.files import check_path

__all__ = ["DATA_SOURCES", "load", "size_of"]

#: Options that a source may ignore; any other must be one that it takes.
_ALWAYS = ("data_dir", "skip_bad", "decoding")


def _folder(
    name: str, *, skip_bad: bool, background: str | None, decoding: Decoding, **options: Any
) -> DataSet:
    options |= {"background": background} if background else {}
    return load_files(name, ImageFiles(**options), skip_bad=skip_bad, decoding=decoding)


def _objects(name: str, **options: Any) -> DataSet:
    return load_objects(name, **options).dataset


def _sounds(name: str, *, skip_bad: bool, **options: Any) -> DataSet:
    return load_files(name, SoundFiles(**options), skip_bad=skip_bad)


#: Name, or the part of it up to the colon, -> the function that loads it, and the options that this
#: takes.
DATA_SOURCES: dict[str, tuple[Callable[..., DataSet], tuple[str, ...]]] = {
    "digits": (load_shipped, ("data_dir",)),
    "fashion_mnist": (load_shipped, ("data_dir",)),
    "tfds:": (load_tfds, ("data_dir", "image_size", "channels", "decoding")),
    "folder:": (_folder, ("skip_bad", "image_size", "channels", "background", "decoding")),
    "objects:": (_objects, ("skip_bad", "image_size", "channels", "background")),
    "sounds:": (_sounds, ("skip_bad", "rate", "seconds")),
    "texts:": (load_texts, ("skip_bad", "unit")),
}


def load(
    name: str,
    *,
    data_dir: str | Path | None = None,
    image_size: Sequence[int] | int | None = None,
    channels: int | None = None,
    background: str | None = None,
    skip_bad: bool = False,
    decode_ahead: float = 2.0,
    views: Views | None = None,
    rate: int | None = None,
    seconds: float | None = None,
    unit: Unit | None = None,
) -> DataSet:
    """Loads a data set, decoding it on first use and mapping the cached arrays afterwards.

    Args:
      name: "digits", "fashion_mnist", "tfds:NAME[/config][:version]", "folder:PATH",
        "objects:PATH", "sounds:PATH" or "texts:PATH".
      data_dir: where prepared data of TensorFlow Datasets lies.
      image_size: (height, width), or one number for both, to resize and crop to (tfds:, folder:)
        or to fit into (objects:).
      channels: 1 or 3 to convert to (tfds:, folder:, objects:).
      background: colour that transparent images are laid on (folder:, objects:); by default white.
      skip_bad: leave unusable files, and boxes, out and count them (folder:, objects:, sounds:,
        texts:).
      decode_ahead: gigabytes that decoded images may take in the cache (folder:, tfds:); where they
        would take more, each is decoded when it is needed.
      views: random views of the files to train on (folder:, tfds:); then none is decoded ahead.
      rate: samples a second (sounds:); by default the most common one.
      seconds: length of each sound (sounds:); by default what 95 of 100 fit into.
      unit: "words" or "characters" (texts:); by default words.

    Returns:
      The data set, with the splits "train" and "test" at least. A source without a test split has
      a fifth of each class set apart for it, always the same.

    Raises:
      UserError: anything about the name, the options or the files that the caller can put right.
    """
    prefix, colon, rest = name.partition(":")
    source = DATA_SOURCES.get(prefix + colon)
    if source is None or (colon and not rest):
        known = ", ".join(key + ("..." if key.endswith(":") else "") for key in DATA_SOURCES)
        raise UserError(f'there is no data set "{name}"; choose from {known}')
    if channels not in (None, 1, 3):
        raise UserError(f"channels must be 1 (grey) or 3 (colour), not {channels}")
    options = {
        "data_dir": None if data_dir is None else _directory(data_dir),
        "image_size": None if image_size is None else size_of(image_size),
        "channels": channels,
        "background": background,
        "skip_bad": skip_bad,
        "decoding": Decoding(decode_ahead, views or Views()),
        "rate": rate,
        "seconds": seconds,
        "unit": unit,
    }
    load_it, takes = source
    if views not in (None, Views()) and "decoding" not in takes:
        raise UserError(
            f"{name} takes no random views of its files (--resized-crop, --rand-augment); they are "
            "for folder: and tfds:"
        )
    for option, value in options.items():
        if value is not None and option not in (*takes, *_ALWAYS):
            able = [key for key, (_, names) in DATA_SOURCES.items() if option in names]
            raise UserError(
                f"{name} takes no {option.replace('_', ' ')}; it is for {' and '.join(able)}"
            )
    return load_it(name, **{option: options[option] for option in takes})


def size_of(image_size: Sequence[int] | int) -> tuple[int, int]:
    """(height, width) of images, of which both or one for both are given.

    Raises:
      UserError: for any other numbers.
    """
    sides = (image_size,) if isinstance(image_size, int) else tuple(image_size)
    if len(sides) not in (1, 2):
        raise UserError(f"the image size is one number, or a height and a width, not {sides}")
    height, width = sides[0], sides[-1]
    if height < 1 or width < 1:
        raise UserError(f"the image size must be 1 or more, not {height}x{width}")
    if height * width > MAX_PIXELS:
        raise UserError(
            f"the image size {height}x{width} is over {MAX_PIXELS // 10**6} megapixels; choose a "
            "smaller one"
        )
    return height, width


def _directory(data_dir: str | Path) -> Path:
    check_path(data_dir, "the data folder")
    try:
        directory = Path(data_dir).expanduser()
    except RuntimeError as error:  # ~NAME, and there is no such user
        raise UserError(f"the data folder {data_dir} is in the home of no known user") from error
    if directory.exists() and not directory.is_dir():
        raise UserError(f"the data folder {directory} is a file; name a folder")
    return directory
