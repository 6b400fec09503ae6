"""`detect`: a run from a folder with boxes to the objects in a new picture."""

import csv
import json

import jax
import jax.export
import numpy as np
import pytest
from PIL import Image as Pillow

from jaxnets.commands import detect
from jaxnets.media.boxes import drawn
from jaxnets.run.load import load_run

SIZE = (32, 48)
SMALL = (
    "--network",
    "resnet_3x2",
    "--width",
    0.25,
    "--channels-inside",
    8,
    "--batch-size",
    4,
    "--devices",
    1,
)


def scene(path, seed, size=SIZE):
    """Writes a picture with a red and a blue square, and their boxes as YOLO has them."""
    draws = np.random.default_rng(seed)
    pixels = draws.integers(90, 130, (*size, 3)).astype(np.uint8)
    lines = []
    for label, colour in enumerate([(230, 30, 30), (30, 30, 230)]):
        side = size[0] // 4
        left = label * size[1] // 2 + int(draws.integers(0, size[1] // 2 - side))
        top = int(draws.integers(0, size[0] - side))
        pixels[top : top + side, left : left + side] = colour
        x, y = (left + side / 2) / size[1], (top + side / 2) / size[0]
        lines.append(f"{label} {x} {y} {side / size[1]} {side / size[0]}")
    path.parent.mkdir(parents=True, exist_ok=True)
    Pillow.fromarray(pixels).save(path)
    path.with_suffix(".txt").write_text("\n".join(lines))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes")
    for seed in range(16):
        scene(root / ("test" if seed > 11 else "train") / f"{seed:02}.png", seed)
    (root / "classes.txt").write_text("red\nblue/green\n")
    return root


def test_a_run_is_made_used_and_measured_again(scenes, workplace, cli):
    line = ["detect", "--data", f"objects:{scenes}", *SMALL, "--epochs", 2, "--run-dir", "run"]
    line += ["--mosaic", 0.5, "--flip"]
    code, out, err = cli(*line)
    assert code == 0, err
    assert "boxes are read as YOLO" in out and "average precision at an overlap of 0.5" in out
    summary = json.loads((workplace / "run/summary.json").read_text())
    assert {"test_ap", "test_ap50", "test_ap50:red", "test_ap50:blue:green"} <= set(summary)
    page = (workplace / "run/report.html").read_text()
    assert "blue/green" in page and "The most misses and false alarms" in page

    code, out, err = cli("evaluate", "run")
    assert code == 0, err
    assert json.loads(out)["test_ap"] == pytest.approx(summary["test_ap"])

    code, out, err = cli("export", "run", "--out", "net.stablehlo")
    assert code == 0 and out.startswith("detector, "), err
    about = json.loads((workplace / "net.stablehlo.json").read_text())
    assert set(about["outputs"]) == {"boxes", "labels", "scores"} and "mark" not in about
    program = jax.export.deserialize((workplace / "net.stablehlo").read_bytes())
    rows = np.stack([np.asarray(Pillow.open(scenes / "test" / f"{i}.png")) for i in (12, 13)])
    exported = program.call(rows)

    big = workplace / "big.png"
    scene(big, 99, (64, 160))  # of another shape: it lies in a part of the frame
    trained = load_run(workplace / "run")
    (record,) = trained.predict(big, least=0.0)
    assert record.size == (64, 160) and len(record.boxes) == 100
    assert (record.boxes >= 0).all() and record.boxes[:, 2].max() <= 160
    assert record.boxes[:, 3].max() <= 64 and record.boxes[:, 3].max() > 32
    assert list(record.scores) == sorted(record.scores, reverse=True)
    of_rows = trained.predict(rows, least=0.0)
    sides = [SIZE[1], SIZE[0], SIZE[1], SIZE[0]]
    np.testing.assert_allclose(
        np.asarray(exported["boxes"][0]) * sides, of_rows[0].boxes, atol=1e-2
    )
    of_files = trained.predict([scenes / "test" / f"{i}.png" for i in (12, 13)], least=0.0)
    for one, two in zip(of_rows, of_files, strict=True):
        np.testing.assert_allclose(one.boxes, two.boxes, atol=1e-3)

    (workplace / "broken.png").write_text("no picture")
    files = [scenes / "test" / "*.png", "broken.png"]
    code, _, err = cli(
        "predict", "run", *files, "--out", "seen", "--json", "a.json", "--csv", "a.csv"
    )
    assert code == 1 and "broken.png: can't be used" in err
    told = json.loads((workplace / "a.json").read_text())
    assert told["class_names"] == ["red", "blue/green"]
    assert sum("error" in one for one in told["predictions"]) == 1
    objects = [o for one in told["predictions"] for o in one.get("objects", [])]
    with (workplace / "a.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [(row["class"], float(row["score"])) for row in table] == [
        (o["class"], o["score"]) for o in objects
    ]
    assert len(list((workplace / "seen").rglob("*.png"))) == 4


@pytest.mark.slow
def test_a_detector_starts_from_another_and_goes_on(scenes, workplace, cli):
    line = ["detect", "--data", f"objects:{scenes}", *SMALL, "--run-dir", "first", "--epochs", 1]
    assert cli(*line)[0] == 0
    code, out, err = cli(*line[:-3], "second", "--epochs", 1, "--init-from", "first")
    assert code == 0, err
    assert "weights of first" in out and "but new" not in out
    code, out, err = cli(
        *line[:-3], "third", "--epochs", 1, "--init-from", "first", "--freeze", "stage2"
    )
    assert code == 0, err
    before, after = (load_run(workplace / name).variables["params"] for name in ("first", "third"))
    same = np.array_equal(*(of["backbone"]["conv_stem"]["kernel"] for of in (before, after)))
    assert same and not np.array_equal(*(of["heat"]["conv"]["kernel"] for of in (before, after)))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--data", "folder:x"], "is no folder of pictures with boxes"),
        (["--rare", "red=3"], "--rare"),
        (["--network", "speed_net"], "a detector needs features of 8x12"),
        (["--batch-size", 6, "--mosaic", 1], "choose a multiple of 4"),
        (["--freeze", "stage1"], "--freeze needs weights"),
        (["--keep-best", 1], "--keep-best needs pictures to watch"),
    ],
)
def test_mistakes_are_told_before_the_training(flags, words, scenes, cli):
    code, _, err = cli("detect", "--data", f"objects:{scenes}", *SMALL, "--epochs", 1, *flags)
    assert code == 2 and words in err


def test_ignored_objects_are_no_mistakes_of_a_report():
    boxes, labels = np.array([[0.0, 0, 9, 9], [20, 20, 29, 29]]), np.array([0, 1])
    for ignored, found, said, wrong in (
        ([False, False], boxes, labels, 0),
        ([False, False], boxes[:1], labels[:1], 1),  # a miss
        ([False, True], boxes[:1], labels[:1], 0),
        ([False, True], boxes, labels, 0),
        ([False, False], boxes, labels[::-1], 4),  # two misses, two false alarms
    ):
        assert detect._wrong(boxes, labels, np.array(ignored), found, said) == wrong


def test_boxes_are_drawn_where_they_are():
    picture = drawn(
        np.zeros((30, 40, 1), np.uint8),
        np.array([[5.0, 6, 20, 25], [22, 2, 38, 12]]),
        np.array([0, 1]),
        ignored=np.array([False, True]),
    )
    assert picture.shape == (30, 40, 3)
    coloured = picture.any(axis=-1)
    assert coloured[6, 5:20].all() and coloured[24, 5:20].all() and coloured[6:25, 5].all()
    assert not coloured[8:23, 7:18].any() and not coloured[26:].any()
    assert len({tuple(picture[6, 5]), tuple(picture[2, 22])}) == 2
