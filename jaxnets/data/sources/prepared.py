"""Reads image classification sets through TensorFlow Datasets, without TensorFlow."""

import contextlib
import hashlib
import importlib.util
import io
import json
import shutil
import sys
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import numpy as np

from jaxnets.columns import Classes, Image
from jaxnets.data.cache import Staging, cache_dir, cached
from jaxnets.data.dataset import DataSet, first_unreadable, read_rows
from jaxnets.data.sources.fashion import reachable
from jaxnets.data.sources.images import ImageFiles
from jaxnets.data.sources.streamed import Decoding, stream_tfds
from jaxnets.data.views import Views
from jaxnets.errors import UserError

__all__ = ["load_shipped", "load_tfds"]

SPLITS = ("train", "validation", "test")
BLOCK = 1024


def load_shipped(name: str, *, data_dir: Path | None) -> DataSet:
    """Digits or Fashion-MNIST, prepared in the cache on first use.

    Args:
      name: "digits" or "fashion_mnist".
      data_dir: folder of TensorFlow Datasets to prepare into, or to find it prepared in.
    """
    key = name + (f"-{_digest(str(data_dir.absolute()))}" if data_dir else "")
    folder = data_dir or cache_dir() / "tfds"

    def build(staging: Staging) -> int:
        from jaxnets.data.sources import builders

        with _quiet():
            kind = {"digits": builders.Digits, "fashion_mnist": builders.FashionMnist}[name]
            try:
                builder = kind(data_dir=str(folder), file_format="array_record")
            except ValueError as error:  # a copy in TFRecord format lies there
                raise UserError(
                    f"{name} in {folder} is stored in a format that only TensorFlow reads "
                    f"({error}): leave --data-dir out, or name another folder"
                ) from error
            existed = builder.is_prepared()
            _write(builder, name)
            try:
                return _read(builder, name, staging, image_size=None, channels=None)
            except UserError:
                if not existed or data_dir is not None:
                    raise
                # What lies in our own cache was whole once; make it anew instead of asking the
                # user to delete a folder that they never heard of.
                shutil.rmtree(builder.data_dir)
                builder = kind(data_dir=str(folder), file_format="array_record")
                _write(builder, name)
                return _read(builder, name, staging, image_size=None, channels=None)

    def build_alone(staging: Staging) -> int:
        # TensorFlow Datasets fails in the second of two processes that prepare a set at once.
        folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder / f"{name}.lock"):
            return build(staging)

    return cached(key, name, build_alone)


def _write(builder: Any, name: str) -> None:
    """Prepares a data set that ships, if it is not yet."""
    try:
        builder.download_and_prepare()
    except RuntimeError as error:  # what array_record makes of a full disk
        if "writing" not in str(error):
            raise
        raise UserError(
            f"{name} can't be prepared in {builder.data_dir}: "
            f"{' '.join(str(error).split())[:300]}; free some space there, or set JAXNETS_CACHE "
            "to another folder"
        ) from error


def load_tfds(
    name: str,
    *,
    data_dir: Path | None,
    image_size: tuple[int, int] | None,
    channels: int | None,
    decoding: Decoding,
) -> DataSet:
    """Any image classification set of TensorFlow Datasets.

    Args:
      name: "tfds:NAME[/config][:version]".
      data_dir: folder of TensorFlow Datasets; by default its own, ~/tensorflow_datasets.
      image_size: (height, width) to resize and crop to.
      channels: 1 or 3 to convert to.
      decoding: when the images are decoded.

    Raises:
      UserError: unknown, not for image classification, not prepared and can't be, or damaged.
    """
    with _quiet():
        builder = _builder(name, data_dir)
        _check_features(builder, name)
        if not builder.is_prepared():
            builder = _prepare(builder, name, data_dir)
        info = Path(builder.data_dir) / "dataset_info.json"
        described = info.read_text(encoding="utf-8") if info.exists() else ""
        options = [str(builder.data_dir), described, image_size, channels]
        key = "-".join(["tfds", *builder.info.full_name.split("/"), _digest(json.dumps(options))])
        height, width, depth = builder.info.features["image"].shape
        height, width = image_size or (height, width)
        shape = height, width, channels or depth
        counts = _counts(builder, name)
        if None in shape and decoding.views != Views():
            raise UserError(
                f"{name} has images of several sizes: random views of them need one, --image-size"
            )
        if None not in shape and decoding.streams(sum(counts.values()), shape):
            import tensorflow_datasets as tfds

            encoded = {"image": tfds.decode.SkipDecoding()}
            sources = _sources(builder, name, counts, decoders=encoded)
            names = _class_names(builder)
            reader = ImageFiles(image_size, channels)
            return stream_tfds(name, sources, reader, Image(shape), names, decoding, key)

        def build(staging: Staging) -> int:
            return _read(builder, name, staging, image_size=image_size, channels=channels)

        return cached(key, name, build)


def _builder(name: str, data_dir: Path | None) -> Any:
    import tensorflow_datasets as tfds

    wanted = name.removeprefix("tfds:")
    try:
        return tfds.builder(wanted, data_dir=str(data_dir) if data_dir else None)
    except tfds.core.DatasetNotFoundError as error:
        raise UserError(
            f'TensorFlow Datasets knows no "{wanted}": look the name up in its catalogue, or name '
            "the folder that holds it with --data-dir"
        ) from error
    except ImportError as error:
        raise _needs_tensorflow(name, str(error)) from error
    except Exception as error:  # bad versions and configs come as AssertionError, ValueError, ...
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f'TensorFlow Datasets can\'t open "{wanted}": {lines[0]}') from error


def _check_features(builder: Any, name: str) -> None:
    import tensorflow_datasets as tfds

    features = builder.info.features
    if not isinstance(features, tfds.features.FeaturesDict):
        raise UserError(f"{name} holds {type(features).__name__}, not images with labels")
    known = dict(features.items())
    image, label = known.get("image"), known.get("label")
    if not isinstance(image, tfds.features.Image) or not isinstance(
        label, tfds.features.ClassLabel
    ):
        raise UserError(
            f"{name} has the features {', '.join(sorted(known))}; to be classified it needs an "
            "`image` and a class `label`"
        )
    if image.np_dtype != np.uint8:
        raise UserError(f"{name} has images of {image.np_dtype}; only uint8 images can be read")


def _needs_tensorflow(name: str, why: str) -> UserError:
    return UserError(
        f"{name} is not prepared yet and preparing it needs TensorFlow ({why}): "
        'pip install "jaxnets[tfds]", or name a folder with a prepared copy with --data-dir'
    )


def _prepare(builder: Any, name: str, data_dir: Path | None) -> Any:
    """Downloads and writes the data set, after asking whether that can succeed at all.

    With no network TensorFlow Datasets retries for 204 seconds, and without TensorFlow it
    downloads everything before it finds that it can't unpack it.
    """
    import tensorflow_datasets as tfds

    urls = list(builder.url_infos or ())
    if urls and importlib.util.find_spec("tensorflow") is None:
        raise _needs_tensorflow(name, "it is not installed")
    if urls and not reachable(urls[0]):
        raise UserError(
            f"{name} is not prepared under {builder.data_dir} and "
            f"{urllib.parse.urlsplit(urls[0]).hostname} does not answer: connect to a network, or "
            "name a folder with a prepared copy with --data-dir"
        )
    try:
        builder = tfds.builder(
            name.removeprefix("tfds:"),
            data_dir=str(data_dir) if data_dir else None,
            file_format="array_record",
        )
        builder.download_and_prepare()
    except ImportError as error:
        raise _needs_tensorflow(name, str(error)) from error
    except Exception as error:  # a builder is foreign code that downloads and parses foreign files
        raise UserError(
            f"{name} can't be prepared in {builder.data_dir}: {type(error).__name__}: "
            f"{' '.join(str(error).split())[:300]}"
        ) from error
    return builder


def _read(
    builder: Any,
    name: str,
    staging: Staging,
    *,
    image_size: tuple[int, int] | None,
    channels: int | None,
) -> int:
    """Decodes "train", "test" and "validation" into `staging`; no example is left out."""
    counts = _counts(builder, name)
    sources = _sources(builder, name, counts)
    classes = Classes(_class_names(builder))
    known = builder.info.splits
    for split, source in sources.items():
        where = f'{name}, split "{split}", in {builder.data_dir}'
        if source:
            shards = [(s.filename, s.take) for s in known[split].file_instructions]
            place = _Place(where, shards)
            _read_split(source, split, place, staging, classes, image_size, channels)
    return 0


def _counts(builder: Any, name: str) -> dict[str, int]:
    """How many examples there are of each split that is used."""
    known = builder.info.splits
    counts = {split: int(known[split].num_examples) for split in SPLITS if split in known}
    if "train" not in counts:
        raise UserError(f"{name} has the splits {', '.join(known) or 'none'}; it needs a `train`")
    return counts


def _sources(
    builder: Any, name: str, counts: Mapping[str, int], **options: Any
) -> dict[str, Sequence[Any]]:
    """Random access to the examples of each split."""
    try:
        sources = {split: builder.as_data_source(split=split, **options) for split in counts}
    except NotImplementedError as error:
        raise UserError(
            f"{name} in {builder.data_dir} is stored as {builder.info.file_format.value}, which "
            "only TensorFlow reads: prepare it again as array_record, with `tfds build "
            f"{builder.name} --file_format=array_record`"
        ) from error
    for split, source in sources.items():
        if len(source) != counts[split]:
            raise UserError(
                f'{name}, split "{split}", in {builder.data_dir} has {len(source)} examples '
                f"instead of {counts[split]}: delete that folder and prepare it again"
            )
    return sources


def _class_names(builder: Any) -> tuple[str, ...]:
    return tuple(str(label) for label in builder.info.features["label"].names)


@dataclass(frozen=True)
class _Place:
    """Where examples lie: a split, and its files with the number of examples in each."""

    split: str
    shards: Sequence[tuple[str, int]]

    def damaged(self, index: int, what: str) -> UserError:
        """The error of an example, with the file that holds it."""
        ends = np.cumsum([count for _, count in self.shards])
        path, _ = self.shards[int(np.searchsorted(ends, index, side="right"))]
        return UserError(
            f"{self.split}: example {index} {what}, so its file {Path(path).name} is damaged; put "
            "a good copy of that file there, or delete that folder and prepare it again"
        )


def _read_split(
    source: Sequence[Any],
    split: str,
    where: _Place,
    staging: Staging,
    classes: Classes,
    image_size: tuple[int, int] | None,
    channels: int | None,
) -> None:
    out = None
    for index, example in enumerate(_examples(source, where)):
        image, label = example.get("image"), example.get("label")
        if image is None or label is None:
            raise where.damaged(index, "is missing")
        image = fit(np.asarray(image), image_size, channels)
        if out is None:
            columns = {"inputs": Image(image.shape), "target": classes}
            out = staging.split(split, len(source), columns)
        if image.shape != out.inputs.shape[1:]:
            raise UserError(
                f"{where.split}: example {index} is {_size(image.shape)} and the first one "
                f"{_size(out.inputs.shape[1:])}; give one size with --image-size"
            )
        out.inputs[index], out.target[index] = image, int(label)


def _examples(source: Sequence[Any], where: _Place) -> Iterator[dict[str, Any]]:
    for start in range(0, len(source), BLOCK):
        rows = range(start, min(start + BLOCK, len(source)))
        try:
            yield from read_rows(source, rows)
        except Exception as error:  # decoders and readers raise all sorts on damaged bytes
            row, reason = first_unreadable(source, rows, error)
            raise where.damaged(row, f"can't be read ({reason})") from error


def fit(image: np.ndarray, image_size: tuple[int, int] | None, channels: int | None) -> np.ndarray:
    """[H, W, C] uint8 resized by its shorter side, centre-cropped and converted, where asked."""
    from PIL import Image, ImageOps

    if image_size in (None, image.shape[:2]) and channels in (None, image.shape[2]):
        return image
    picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    if image_size is not None:
        height, width = image_size
        picture = ImageOps.fit(picture, (width, height), Image.Resampling.BICUBIC)
    if channels is not None:
        picture = picture.convert("L" if channels == 1 else "RGB")
    array = np.asarray(picture)
    return array[..., None] if array.ndim == 2 else array


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences TensorFlow Datasets but for its progress bars, and those too where no one looks."""
    import tensorflow_datasets as tfds
    from absl import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)
