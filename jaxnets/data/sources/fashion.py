"""Where the files of Fashion-MNIST come from, and how they are read.

Reference: Xiao, Rasul, Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine
Learning Algorithms", https://arxiv.org/abs/1708.07747
"""

import gzip
import hashlib
import os
import queue
import socket
import threading
import urllib.error
import urllib.parse
import urllib.request
import zlib
from pathlib import Path

import numpy as np

from jaxnets.data.cache import cache_dir, temporary_folder
from jaxnets.errors import UserError

__all__ = ["find_files", "reachable", "read_split"]

PACKAGE = "dataset-fashion-mnist"
PACKAGE_FOLDER = "/usr/share/datasets/fashion-mnist"
BASE_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"

CLASS_NAMES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)

#: Split -> (file, sha256 of its contents without gzip) for images and labels. The distribution's
#: package is compressed anew, so the bytes of its .gz files differ from the publisher's; what
#: they hold does not: with the publisher's names and times (2017-08-31) put back into the gzip
#: headers, all four files have the MD5 sums that the publisher gives.
FILES = {
    "train": (
        (
            "train-images-idx3-ubyte.gz",
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        ),
        (
            "train-labels-idx1-ubyte.gz",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        ),
    ),
    "test": (
        (
            "t10k-images-idx3-ubyte.gz",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        ),
        (
            "t10k-labels-idx1-ubyte.gz",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
    ),
}

PROBE_SECONDS = 1.5
READ_SECONDS = 20.0
#: The largest file unpacks to 47 MB; a stream that claims more is not one of ours.
MAX_BYTES = 1 << 27


def find_files() -> Path:
    """The folder with the four files: your own, the distribution's package, or a download.

    Raises:
      UserError: they are nowhere and can't be downloaded.
    """
    own = os.environ.get("JAXNETS_FASHION_MNIST")
    if own:
        missing = _missing(Path(own))
        if missing:
            raise UserError(
                f"JAXNETS_FASHION_MNIST names {own}, which lacks {', '.join(missing)}; put the "
                "files there or unset the variable"
            )
        return Path(own)
    downloads = cache_dir() / "downloads" / "fashion_mnist"
    for folder in (Path(PACKAGE_FOLDER), downloads):
        if not _missing(folder):
            return folder
    _download(downloads)
    return downloads


def read_split(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images [N, H, W] uint8 and labels [N] uint8 of "train" or "test".

    Raises:
      UserError: a file is damaged, or is not the published one.
    """
    images, labels = (_array(_unpack(folder / name, sha256)) for name, sha256 in FILES[split])
    return images, labels


def _array(data: bytes) -> np.ndarray:
    """Decodes IDX: two zero bytes, 8 for unsigned bytes, the rank, big-endian sizes, values.

    The checksum has told that the data are these.
    """
    rank = data[3]
    shape = np.frombuffer(data, ">u4", rank, 4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape)


def _missing(folder: Path) -> list[str]:
    names = [name for files in FILES.values() for name, _ in files]
    return [name for name in names if not (folder / name).is_file()]


def _unpack(path: Path, sha256: str) -> bytes:
    try:
        with gzip.open(path) as file:
            data = file.read(MAX_BYTES)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} can't be unpacked ({error}); delete it and try again") from error
    digest = hashlib.sha256(data).hexdigest()
    if digest != sha256:
        raise UserError(
            f"{path} is not the published file: its contents have sha256 {digest} instead of "
            f"{sha256}; delete it and try again"
        )
    return data


def _download(folder: Path) -> None:
    """Fetches the four files into `folder`, which appears only when all of them are right."""
    host = urllib.parse.urlsplit(BASE_URL).hostname
    hint = (
        f"install the package with `apt install {PACKAGE}`, or connect to a network that "
        f"reaches {host}"
    )
    if not reachable(BASE_URL):
        raise UserError(f"Fashion-MNIST is not on this machine and {host} does not answer: {hint}")
    with temporary_folder(folder.parent) as temporary:
        for files in FILES.values():
            for name, sha256 in files:
                _fetch(BASE_URL + name, temporary / name, hint)
                _unpack(temporary / name, sha256)
        for path in sorted(temporary.iterdir()):
            folder.mkdir(exist_ok=True)
            path.replace(folder / path.name)


def _fetch(url: str, target: Path, hint: str) -> None:
    try:
        with urllib.request.urlopen(url, timeout=READ_SECONDS) as reply, target.open("wb") as out:
            size = 0
            while block := reply.read(1 << 16):
                size += len(block)
                if size > MAX_BYTES:
                    raise UserError(f"{url} sends more than {MAX_BYTES} bytes: {hint}")
                out.write(block)
            declared = reply.headers.get("Content-Length")
        if declared is not None and size != int(declared):
            raise UserError(f"{url} broke off after {size} of {declared} bytes: {hint}")
    except (OSError, urllib.error.URLError) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # it holds the connection
        reason = "stopped answering" if isinstance(error, TimeoutError) else str(error)
        raise UserError(f"{url} can't be downloaded ({reason}): {hint}") from error


def reachable(url: str) -> bool:
    """Whether the host of `url` (or the proxy to it) accepts a connection within seconds.

    The name lookup has no timeout of its own, so all of it happens in a thread that is left
    behind when it takes too long.
    """
    parts = urllib.parse.urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and not urllib.request.proxy_bypass(parts.hostname or ""):
        parts = urllib.parse.urlsplit(proxy if "//" in proxy else f"//{proxy}")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    answers: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def connect() -> None:
        try:
            socket.create_connection((parts.hostname or "", port), timeout=PROBE_SECONDS).close()
            answers.put(True)
        except OSError:
            answers.put(False)

    threading.Thread(target=connect, daemon=True).start()
    try:
        return answers.get(timeout=PROBE_SECONDS)
    except queue.Empty:
        return False
