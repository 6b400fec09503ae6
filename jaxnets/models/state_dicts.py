"""State dicts of PyTorch, read without PyTorch and without running anything that a file says.

A pickle may call any function. Here it can call two: one that makes an `OrderedDict`, and one that
notes where a tensor lies. Whatever else a file names is refused.
"""

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from jaxnets.errors import UserError

__all__ = ["read_state_dict"]

#: The storages that torch names, and how their bytes are read. NumPy has no bfloat16.
_STORAGES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "?",
}

#: First pickle of a file of torch before 1.6, and its version.
_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001


class _Unfit(Exception):
    """A file that is not a plain state dict; the message ends the sentence "FILE ..."."""


@dataclass(frozen=True)
class _Storage:
    """Where the numbers of tensors lie."""

    key: str
    dtype: str
    count: int


@dataclass(frozen=True)
class _Tensor:
    """A view of a storage, in numbers and not in bytes."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def read(self, data: memoryview | bytes) -> np.ndarray:
        """A copy of its numbers, bfloat16 as float32."""
        kind = self.storage.dtype
        flat = np.frombuffer(data, "<u2" if kind == "bfloat16" else kind)
        last = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))
        if min((self.offset, *self.shape, *self.strides)) < 0:
            raise _Unfit("has a tensor with a negative size")
        if (size := math.prod(self.shape)) and (last >= len(flat) or size > len(flat)):
            raise _Unfit("is cut off, or has a tensor that is larger than its numbers")
        steps = [s * flat.itemsize for s in self.strides]
        view = np.lib.stride_tricks.as_strided(flat[self.offset :], self.shape, steps)
        if kind == "bfloat16":
            return (view.astype(np.uint32) << 16).view(np.float32)
        return view.copy()


def _tensor(storage: Any, offset: int, shape: Any, strides: Any, *_: Any) -> _Tensor:
    """Stands for `torch._utils._rebuild_tensor_v2`."""
    if not isinstance(storage, _Storage):
        raise _Unfit("has a tensor without numbers")
    return _Tensor(storage, int(offset), tuple(map(int, shape)), tuple(map(int, strides)))


class _Unpickler(pickle.Unpickler):
    """Knows dicts, numbers, texts and where tensors lie."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda tensor, *_: tensor
        raise _Unfit(
            f"holds more than tensors ({module}.{name}), which is not run here: save the module's "
            "state_dict() alone"
        )

    def persistent_load(self, pid: Any) -> _Storage:
        what, kind, key, _, count, *view = pid
        if what != "storage" or kind not in _STORAGES.values() or any(view):
            raise _Unfit("has a storage of an unknown kind")
        return _Storage(str(key), kind, int(count))


def _from_zip(file: BinaryIO) -> dict[str, np.ndarray]:
    """What torch has written since 1.6: a zip archive with a file for each storage."""
    with zipfile.ZipFile(file) as archive:
        names = {name.partition("/")[2]: name for name in archive.namelist()}
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise _Unfit("is a compressed archive, which torch does not write")
        if "data.pkl" not in names:
            raise _Unfit("is a zip archive without a state dict")
        if "byteorder" in names and archive.read(names["byteorder"]) != b"little":
            raise _Unfit("was written by a machine with another order of bytes")
        found = _Unpickler(io.BytesIO(archive.read(names["data.pkl"]))).load()
        return _read_all(found, lambda storage: archive.read(names[f"data/{storage.key}"]))


def _from_pickles(file: BinaryIO) -> dict[str, np.ndarray]:
    """What older versions wrote: five pickles, then the storages, each after its length."""
    data = io.BytesIO(file.read())
    magic, version, system, found, keys = (_Unpickler(data).load() for _ in range(5))
    if (magic, version, system["little_endian"]) != (_MAGIC, _VERSION, True):
        raise _Unfit("is not a state dict of PyTorch")
    kinds = {t.storage.key: t.storage.dtype for t in _tensors(found).values()}
    rest, place, storages = data.getbuffer(), data.tell(), {}
    for key in map(str, keys):
        kind = kinds.get(key)
        if kind is None:
            raise _Unfit("has a storage that belongs to no tensor")
        count = int.from_bytes(rest[place : place + 8], "little")
        size = count * (2 if kind == "bfloat16" else np.dtype(kind).itemsize)
        storages[key] = rest[place + 8 : place + 8 + size]
        place += 8 + size
    return _read_all(found, lambda storage: storages[storage.key])


def _tensors(found: Any) -> dict[str, _Tensor]:
    if isinstance(found, Mapping) and isinstance(found.get("state_dict"), Mapping):
        found = found["state_dict"]  # as timm saves it, beside the number of the epoch
    if not isinstance(found, Mapping) or not found:
        raise _Unfit("holds no state dict")
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, _Tensor):
            raise _Unfit(f"holds {str(name)[:60]!r}, which is no tensor: save a state_dict() alone")
    return dict(found)


def _read_all(found: Any, data_of: Callable[[_Storage], Any]) -> dict[str, np.ndarray]:
    return {name: tensor.read(data_of(tensor.storage)) for name, tensor in _tensors(found).items()}


def _safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return dict(load_file(path))


def read_state_dict(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a `.pth`, `.pt` or `.safetensors` file, by name.

    Raises:
      UserError: if the file is not there, is damaged, or holds anything but tensors by name.
    """
    if not path.is_file():
        raise UserError(f"there is no file {path} with weights")
    try:
        if path.suffix == ".safetensors":
            return _safetensors(path)
        with path.open("rb") as file:
            if zipfile.is_zipfile(file):
                return _from_zip(file)
            file.seek(0)
            return _from_pickles(file)
    except UserError:
        raise
    except _Unfit as error:
        raise UserError(f"{path} {error}") from None
    except Exception as error:  # of a damaged file a reader may raise whatever it likes
        raise UserError(f"{path} is not a state dict of PyTorch, or is damaged: {error}") from error
