"""Files of runs that no command can use: configurations, records, checkpoints."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

#: What the folders that `furnish` makes were run with.
RUNS: dict[str, dict[str, Any]] = {
    "classifier": {"data": "digits", "network": "lenet5", "batch_size": 16, "epochs": 0.05},
    "gan": {"data": "digits", "width": 0.1, "batch_size": 16, "epochs": 0.05},
}
EXPERIMENTS = {"classifier": "classify", "gan": "generate"}
#: Their `network.json`.
NETWORKS: dict[str, dict[str, Any]] = {
    "classifier": {"name": "lenet5", "num_classes": 10},
    "gan": {"name": "dcgan", "num_classes": 10, "latent_size": 64, "width": 0.1},
}


#: A PNG of 8x8 grey pixels.
IMAGE = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000008000000080800000000e164e1570000001049444154789c63"
    "6c60800026068a1800260800905d30a51e0000000049454e44ae426082"
)


def run_text(name: str, **fields: Any) -> str:
    """`config.json` of one of `RUNS`, with other fields."""
    config = {**RUNS[name], **fields}
    return json.dumps({"experiment": EXPERIMENTS[name], "config": config})


def network_text(name: str) -> str:
    """`network.json` of one of `RUNS`."""
    columns = {
        "inputs": {"kind": "image", "shape": [8, 8, 1]},
        "target": {"kind": "classes", "names": [*"0123456789"]},
    }
    told = {"format": 1, "network": NETWORKS[name], "columns": columns, "members": ["seed-0"]}
    told |= {"kind": {"gan": "generator"}.get(name, name), "data": "digits", "fingerprint": "0"}
    return json.dumps(told)


def furnish(folder: Path) -> None:
    """Makes what the paths of the cases name: a file, a folder, pictures, and two runs."""
    (folder / "file").write_text("not yours")
    (folder / "image.png").write_bytes(IMAGE)
    (folder / "pictures").mkdir()
    for number in range(32):
        Image.new("L", (8, 8), 7 * number).save(folder / "pictures" / f"{number}.png")
    (folder / "full").mkdir()
    (folder / "full" / "notes.txt").write_text("keep")
    for name in RUNS:
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(run_text(name))
        (folder / name / "network.json").write_text(network_text(name))


def contents(folder: Path) -> dict[str, bytes | str | None]:
    """Every path in a folder, and what the file holds, or where the link leads."""
    found: dict[str, bytes | str | None] = {}
    todo = [folder]
    while todo:  # and not rglob, which recurses
        for path in todo.pop().iterdir():
            name = str(path.relative_to(folder))
            if path.is_symlink():
                found[name] = os.readlink(path)
                continue
            found[name] = path.read_bytes() if path.is_file() else None
            if path.is_dir():
                todo.append(path)
    return found


TEXT = json.dumps({"experiment": "generate", "config": {"data": "digits", "batch_size": 16}})

#: Contents of `config.json` that describe no run.
CONFIGS: dict[str, bytes] = {
    "empty": b"",
    "no UTF-8": b'{"experiment": "\xff\xfe"}',
    "UTF-16": TEXT.encode("utf-16"),
    "byte order mark": b"\xef\xbb\xbf" + TEXT.encode(),
    "null": b"null",
    "number": b"42",
    "text": b'"generate"',
    "list": b"[]",
    "no fields": b"{}",
    "no config": b'{"experiment": "generate"}',
    "config is a list": b'{"experiment": "generate", "config": [1]}',
    "no experiment": b'{"config": {}}',
    "unknown experiment": b'{"experiment": "segment", "config": {}}',
    "unknown field": TEXT.replace('"data"', '"new_in_version_9": 1, "data"').encode(),
    "a wrong type": TEXT.replace("16", '"many"').encode(),
    "out of range": TEXT.replace("16", "0").encode(),
    "two values": TEXT.encode() * 2,
    "deep lists": b"[" * 100_000,
    "a number of 5,000 digits": b'{"experiment": "generate", "config": {"seed": ' + b"9" * 5000,
    **{f"cut after {n} bytes": TEXT[:n].encode() for n in range(1, len(TEXT) - 1, 9)},
}

#: Contents of `metrics.jsonl` that are no records, each followed by a good one.
RECORDS: dict[str, bytes] = {
    "number": b"42",
    "null": b"null",
    "list": b"[1]",
    "text": b'"split"',
    "no fields": b"{}",
    "no step": b'{"split": "train"}',
    "no split": b'{"step": 1}',
    "step is a text": b'{"split": "train", "step": "1"}',
    "step is true": b'{"split": "train", "step": true}',
    "split is a list": b'{"split": [], "step": 1}',
    "loss is a text": b'{"split": "train", "step": 1, "loss": "low"}',
    "cut": b'{"split": "train", "ste',
    "no UTF-8": b"\xff\xfe\x00",
    "deep": b"[" * 100_000,
    "empty line": b"",
}


def _file_for_folder(run: Path) -> None:
    (run / "checkpoints").write_text("")


def _link_to_itself(run: Path) -> None:
    (run / "checkpoints").symlink_to("checkpoints")


def _step(name: str, **files: bytes) -> Callable[[Path], None]:
    """A function that makes the folder of a checkpoint with such files in it."""

    def make(run: Path) -> None:
        folder = run / "checkpoints" / name
        folder.mkdir(parents=True)
        for file, content in files.items():
            (folder / file.replace("_json", ".json")).write_bytes(content)

    return make


def _file_for_step(run: Path) -> None:
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "4").write_text("")


def _folder_for_manifest(run: Path) -> None:
    (run / "checkpoints" / "4" / "manifest.json").mkdir(parents=True)


_FORMAT = b'{"format": "jaxnets checkpoint 1"'

#: What may lie in a run's folder as its checkpoints, and is none.
CHECKPOINTS: dict[str, Callable[[Path], None]] = {
    "a file": _file_for_folder,
    "a link to itself": _link_to_itself,
    "a step that is a file": _file_for_step,
    "an empty step": _step("4"),
    "a step cut off": _step("4.orbax-checkpoint-tmp"),
    "leading zeros": _step("004"),
    "other digits": _step("\u0664"),
    "beyond int64": _step("9" * 30),
    "an empty manifest": _step("4", manifest_json=b""),
    "a manifest of another format": _step("4", manifest_json=b'{"format": "x"}'),
    "a manifest that is a list": _step("4", manifest_json=b"[]"),
    "a deep manifest": _step("4", manifest_json=b"[" * 100_000),
    "no UTF-8 in the manifest": _step("4", manifest_json=b"\xff"),
    "a manifest without a digest": _step("4", manifest_json=_FORMAT + b"}"),
    "a manifest with a wrong digest": _step("4", manifest_json=_FORMAT + b', "digest": "0"}'),
    "a manifest that is a folder": _folder_for_manifest,
}
