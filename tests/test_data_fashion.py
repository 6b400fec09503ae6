"""Fashion-MNIST's files: found, downloaded, verified, decoded."""

import gzip
import hashlib
import http.server
import socket
import threading
from pathlib import Path

import numpy as np
import pytest

from jaxnets.data import load
from jaxnets.data.cache import cache_dir
from jaxnets.data.sources import fashion
from jaxnets.errors import UserError

COUNTS = {"train": 40, "test": 20}


def idx(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return header + array.astype(np.uint8).tobytes()


def arrays(split: str) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(COUNTS[split])
    labels = np.arange(COUNTS[split]) % 10
    return random.integers(0, 256, (COUNTS[split], 28, 28), np.uint8), labels


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """A machine with an empty cache, without the package, and with no proxy."""
    monkeypatch.setenv("JAXNETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("JAXNETS_FASHION_MNIST", raising=False)
    monkeypatch.setattr(fashion, "PACKAGE_FOLDER", str(tmp_path / "no-package"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def files(tmp_path, monkeypatch) -> Path:
    """A folder of four small files whose hashes are the pinned ones."""
    folder = tmp_path / "files"
    folder.mkdir()
    pinned = {}
    for split, pair in fashion.FILES.items():
        entries = []
        for (name, _), array in zip(pair, arrays(split), strict=True):
            (folder / name).write_bytes(gzip.compress(idx(array)))
            entries.append((name, hashlib.sha256(idx(array)).hexdigest()))
        pinned[split] = tuple(entries)
    monkeypatch.setattr(fashion, "FILES", pinned)
    return folder


@pytest.fixture
def serve(monkeypatch):
    """Starts servers that answer each GET by `reply(handler, name)`."""
    servers = []

    def start(reply):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                reply(self, self.path.lstrip("/"))

            def log_message(self, format, *args):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        servers.append((server, thread))
        monkeypatch.setattr(fashion, "BASE_URL", f"http://127.0.0.1:{server.server_port}/")

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


def send(handler, data: bytes, declared: int | None = None) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(data) if declared is None else declared))
    handler.end_headers()
    handler.wfile.write(data)


def assert_loads() -> None:
    dataset = load("fashion_mnist")
    assert dataset.class_names[9] == "Ankle boot"
    for split in COUNTS:
        images, labels = arrays(split)
        found = dataset.splits[split]
        # TensorFlow Datasets shuffles as it writes; every image must still have its label.
        place = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
        assert len(found) == COUNTS[split] and found.inputs.shape[1:] == (28, 28, 1)
        assert {i.tobytes(): n for i, n in zip(found.inputs, found.target, strict=True)} == place


def test_files_of_your_own(files, monkeypatch):
    monkeypatch.setenv("JAXNETS_FASHION_MNIST", str(files))
    assert_loads()


def test_a_folder_of_your_own_that_lacks_a_file(files, monkeypatch):
    (files / "t10k-labels-idx1-ubyte.gz").unlink()
    monkeypatch.setenv("JAXNETS_FASHION_MNIST", str(files))
    with pytest.raises(UserError, match=r"lacks t10k-labels-idx1-ubyte\.gz"):
        fashion.find_files()


def test_download(files, serve):
    requests = []

    def reply(handler, name):
        requests.append(name)
        send(handler, (files / name).read_bytes())

    serve(reply)
    assert_loads()
    fashion.find_files()
    assert sorted(requests) == sorted(path.name for path in files.iterdir())


def assert_fails(message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load("fashion_mnist")
    assert "\n" not in str(caught.value)
    downloads = cache_dir() / "downloads"
    assert not downloads.exists() or list(downloads.iterdir()) == []


FAULTS = {
    "another file": (
        lambda handler: send(handler, gzip.compress(b"something else")),
        "not the published file.*sha256",
    ),
    "a page to log in": (
        lambda handler: send(handler, b"<html>log in</html>"),
        "can't be unpacked",
    ),
    "half of it": (
        lambda handler: send(handler, b"half", declared=8),
        "broke off after 4 of 8 bytes|IncompleteRead",
    ),
    "nothing": (lambda handler: handler.send_error(404), r"404.*apt install"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_download_that_fails_is_told_and_not_kept(fault, files, serve):
    reply, message = FAULTS[fault]
    serve(lambda handler, name: reply(handler))
    assert_fails(message)


def test_a_stalled_download(files, serve, monkeypatch):
    monkeypatch.setattr(fashion, "READ_SECONDS", 0.2)
    release = threading.Event()
    serve(lambda handler, name: release.wait())
    try:
        assert_fails("stopped answering.*apt install")
    finally:
        release.set()


def test_a_refused_connection(files, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: connecting is refused
        monkeypatch.setattr(fashion, "BASE_URL", f"http://127.0.0.1:{taken.getsockname()[1]}/")
        assert_fails("apt install dataset-fashion-mnist.*network")


def test_a_name_lookup_that_hangs(files, monkeypatch):
    release = threading.Event()
    monkeypatch.setattr(fashion, "PROBE_SECONDS", 0.3)

    def hang(*args, **kwargs):
        release.wait()
        raise OSError("no such name")

    monkeypatch.setattr(socket, "create_connection", hang)
    try:
        assert_fails("apt install dataset-fashion-mnist.*network")
    finally:
        release.set()


def test_the_package_holds_the_pinned_files(monkeypatch):
    folder = Path("/usr/share/datasets/fashion-mnist")
    if not folder.is_dir():
        pytest.skip("the package dataset-fashion-mnist is not installed")
    images, labels = fashion.read_split(folder, "test")
    assert images.shape == (10000, 28, 28) and np.bincount(labels).tolist() == [1000] * 10
