"""`study rare-classes`: its cells and verdicts, and blood cells cut out by their boxes."""

import json

import numpy as np
import pytest
from PIL import Image

from command_lines import run
from experiments.studies import blood_cells, rare_classes
from jaxnets.errors import UserError

BOX = "<object><name>{}</name><bndbox>{}</bndbox></object>"


def box(name, *corners):
    keys = ("xmin", "ymin", "xmax", "ymax")
    return BOX.format(name, "".join(f"<{k}>{c}</{k}>" for k, c in zip(keys, corners, strict=True)))


def test_cells_are_cut_out_as_squares_and_empty_boxes_counted(tmp_path):
    source = tmp_path / "bccd"
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (source / folder).mkdir(parents=True)
    for part, name in (("train", "a"), ("val", "b"), ("test", "c")):
        (source / "ImageSets" / "Main" / f"{part}.txt").write_text(f"{name}\n")
        Image.new("RGB", (40, 30), (200, 0, 0)).save(source / "JPEGImages" / f"{name}.jpg")
        cells = box("RBC", 5, 5, 15, 12) + box("WBC", -5, 0, 10, 50) + box("RBC", 40, 3, 60, 9)
        (source / "Annotations" / f"{name}.xml").write_text(f"<annotation>{cells}</annotation>")
    counts = blood_cells.crops(source, tmp_path / "out", size=8)
    parts = [
        f"{part} {kind}" for part in ("train", "validation", "test") for kind in ("RBC", "WBC")
    ]
    assert counts == {**dict.fromkeys(parts, 1), "empty boxes": 3}
    with Image.open(tmp_path / "out" / "test" / "WBC" / "c-001.png") as crop:
        assert crop.size == (8, 8) and crop.getpixel((0, 0))[0] > 190
    with pytest.raises(UserError, match="is there already"):
        blood_cells.crops(source, tmp_path / "out")
    with pytest.raises(UserError, match="holds no BCCD data"):
        blood_cells.crops(tmp_path / "nowhere", tmp_path / "other")


def test_a_crop_is_centred_on_its_box_and_repeats_the_edge():
    picture = np.arange(30 * 40 * 3).reshape(30, 40, 3)
    inside = blood_cells.cut(picture, 10, 8, 20, 14, margin=0.1)
    np.testing.assert_array_equal(inside, picture[5:17, 9:21])
    corner = blood_cells.cut(picture, 36, 26, 44, 34, margin=0)
    np.testing.assert_array_equal(corner, picture[26:30, 36:40])
    beyond = blood_cells.cut(picture, 30, 0, 40, 4, margin=0)
    np.testing.assert_array_equal(beyond[:4], np.repeat(picture[:1, 30:40], 4, axis=0))


def record(images, method, seed, recall):
    scores = {"recall": recall, "average_precision": 0.5}
    return {"row": {"images": images, "method": method}, "seed": seed, "scores": scores}


def test_the_gan_is_compared_with_the_best_plain_method_of_the_same_seeds():
    records = [
        record(images, method, seed, of + 0.1 * seed)
        for images, recalls in ((10, (0.1, 0.3, 0.5)), (300, (0.1, 0.9, 0.5)))
        for method, of in zip(("plain", "weights", "gan"), recalls, strict=True)
        for seed in range(3)
    ]
    told = {(t["images"], t["score"]): t for t in rare_classes.comparison(records)}
    assert told[10, "recall"]["verdict"] == "pays"
    assert told[10, "recall"]["best_plain"] == "weights"
    assert told[10, "recall"]["mean"] == pytest.approx(0.2)
    assert told[300, "recall"]["verdict"] == "costs"
    assert told[10, "average_precision"]["verdict"] == "even"


@pytest.mark.slow
def test_a_tiny_study_goes_on_where_it_stopped(workplace):
    flags = "--data digits --rare 3 --counts 10 --others 60 --seeds 1 --steps 4 --gan-images 640"
    command = f"study rare-classes {flags} --run-dir runs --out rare.json --methods"
    run(f"{command} oversample gan-unfiltered")
    cells = json.loads((workplace / "rare.json").read_text())["cells"]
    assert [cell["row"]["method"] for cell in cells] == ["oversample", "gan-unfiltered"]
    steps = [
        json.loads((path / "cnn" / "summary.json").read_text())["step"]
        for path in (workplace / "runs").glob("images-*")
    ]
    assert steps == [4, 4]
    kept = (workplace / "runs" / "gan-10-seed-0" / "summary.json").stat().st_mtime_ns
    run(f"{command} plain oversample gan-unfiltered")
    told = json.loads((workplace / "rare.json").read_text())
    assert len(told["table"]) == 3 and len(told["comparison"]) == 2
    assert (workplace / "runs" / "gan-10-seed-0" / "summary.json").stat().st_mtime_ns == kept
