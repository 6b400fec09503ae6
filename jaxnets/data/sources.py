"""A name -> a data set."""

from collections.abc import Callable
from pathlib import Path

from jaxnets.data.dataset import DataSet
from jaxnets.data.folder import load_files
from jaxnets.data.images import MAX_PIXELS, ImageFiles
from jaxnets.data.prepared import load_shipped, load_tfds
from jaxnets.errors import UserError
from jaxnets.files import check_path

__all__ = ["DATA_SOURCES", "load"]

Size = tuple[int, int] | None


def _shipped(
    name: str, data_dir: Path | None, image_size: Size, channels: int | None, skip_bad: bool
) -> DataSet:
    if image_size is not None or channels is not None:
        raise UserError(
            f"{name} has one image size and one channel; image_size and channels are for tfds: "
            "and folder:"
        )
    return load_shipped(name, data_dir=data_dir)


def _tfds(
    name: str, data_dir: Path | None, image_size: Size, channels: int | None, skip_bad: bool
) -> DataSet:
    return load_tfds(name, data_dir=data_dir, image_size=image_size, channels=channels)


def _folder(
    name: str, data_dir: Path | None, image_size: Size, channels: int | None, skip_bad: bool
) -> DataSet:
    return load_files(name, ImageFiles(image_size, channels), skip_bad=skip_bad)


#: Name, or the part of it up to the colon, -> function of (name, data_dir, image_size, channels,
#: skip_bad).
DATA_SOURCES: dict[str, Callable[[str, Path | None, Size, int | None, bool], DataSet]] = {
    "digits": _shipped,
    "fashion_mnist": _shipped,
    "tfds:": _tfds,
    "folder:": _folder,
}


def load(
    name: str,
    *,
    data_dir: str | Path | None = None,
    image_size: tuple[int, int] | int | None = None,
    channels: int | None = None,
    skip_bad: bool = False,
) -> DataSet:
    """Loads a data set, decoding it on first use and mapping the cached arrays afterwards.

    Args:
      name: "digits", "fashion_mnist", "tfds:NAME[/config][:version]" or "folder:PATH".
      data_dir: where prepared data of TensorFlow Datasets lies.
      image_size: (height, width), or one number for both, to resize and crop to (tfds:, folder:).
      channels: 1 or 3 to convert to (tfds:, folder:).
      skip_bad: leave unusable files out and count them (folder:).

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
        raise UserError(f'there is no data set "{name}"; the known ones are {known}')
    if isinstance(image_size, int):
        image_size = (image_size, image_size)
    if image_size is not None:
        height, width = image_size
        if min(image_size) < 1:
            raise UserError(f"the image size must be 1 or more, not {height}x{width}")
        if height * width > MAX_PIXELS:
            raise UserError(
                f"the image size {height}x{width} is over {MAX_PIXELS // 10**6} megapixels; choose "
                "a smaller one"
            )
    if channels not in (None, 1, 3):
        raise UserError(f"channels must be 1 (grey) or 3 (colour), not {channels}")
    directory = None if data_dir is None else _directory(data_dir)
    return source(name, directory, image_size, channels, skip_bad)


def _directory(data_dir: str | Path) -> Path:
    check_path(data_dir, "the data folder")
    try:
        directory = Path(data_dir).expanduser()
    except RuntimeError as error:  # ~NAME, and there is no such user
        raise UserError(f"the data folder {data_dir} is in the home of no known user") from error
    if directory.exists() and not directory.is_dir():
        raise UserError(f"the data folder {directory} is a file; name a folder")
    return directory
