"""`spot`: both sides are made alike, a detector estimates, a mistake is one sentence."""

import dataclasses
import json
import shutil
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow

from jaxnets.columns import Image
from jaxnets.commands import spotting
from jaxnets.commands.configs.options import ImageOptions
from jaxnets.commands.configs.spot import Sides, SpotTrain, resolve
from jaxnets.data.sources.images import ImageFiles, reread
from jaxnets.media.jpeg import quality_of, recompressed
from jaxnets.metrics.threshold import best_threshold
from jaxnets.run.load import load_run, read_description


def blobs(count, size, seed, channels=3):
    """Smooth pictures [N, size, size, C] uint8, as photographs are."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 6, 6, channels), np.uint8)
    return np.stack([resized(row, size) for row in coarse])


def resized(row, size):
    image = Pillow.fromarray(row[..., 0] if row.shape[-1] == 1 else row)
    made = image.resize((size, size), Pillow.Resampling.BICUBIC)
    return np.asarray(made).reshape(size, size, -1)


def write(rows, folder, kind="png", **options):
    folder.mkdir(parents=True)
    for number, row in enumerate(rows):
        Pillow.fromarray(row.squeeze()).save(folder / f"{number:03}.{kind}", **options)
    return f"folder:{folder}"


def detector(real, *generated, **values):
    return resolve(SpotTrain(real=real, generated=generated, **values))


def inputs_of(config) -> Any:
    """What the pictures of a detector become."""
    return spotting.load(config).columns["inputs"]


def test_the_same_pictures_in_other_formats_and_sizes_become_the_same_arrays(tmp_path):
    """What is left of the difference is far below what tells one picture from the next."""
    rows = blobs(40, 64, 0)
    png, other = write(rows, tmp_path / "png"), write(blobs(40, 64, 1), tmp_path / "other")
    small = [resized(row, 48) for row in rows]
    jpeg = write(rows, tmp_path / "jpeg", "jpg", quality=90)
    write(small, tmp_path / "small", "jpg", quality=95)

    def apart(column, name):
        """Between PNG and JPEG, and between one picture and the next."""
        files = [sorted((tmp_path / of).iterdir()) for of in ("png", name)]
        first, second = (
            np.stack([ImageFiles().row(path, column) for path in paths]).astype(int)
            for paths in files
        )
        return np.abs(first - second).mean(), np.abs(first[1:] - first[:-1]).mean()

    column = inputs_of(detector(jpeg, other))
    assert column == Image((64, 64, 3)) and column.qualities == (90,)
    difference, usual = apart(column, "jpeg")  # all have one size, and keep it
    assert difference == 0 and usual > 50
    column = inputs_of(detector(f"folder:{tmp_path / 'small'}", png))
    assert column == Image((12, 12, 3)) and column.qualities == (95,)  # a quarter of the least
    difference, usual = apart(column, "small")
    assert difference < 4 and usual > 50


def test_predict_reads_files_as_training_did(tmp_path):
    rows = blobs(3, 16, 0, 1)
    column = Image((16, 16, 1), qualities=(60,))
    write(rows, tmp_path / "a")
    from_files = [ImageFiles().row(path, column) for path in sorted((tmp_path / "a").iterdir())]
    np.testing.assert_array_equal(
        from_files, [recompressed(recompressed(row, 60), 60) for row in rows]
    )
    np.testing.assert_array_equal(from_files, reread(rows, column))
    assert np.abs(np.array(from_files).astype(int) - rows).max() > 0
    small = reread(rows, Image((8, 8, 1)))
    assert small.shape == (3, 8, 8, 1)


@pytest.mark.parametrize("quality", [30, 75, 92])
def test_the_quality_of_a_jpeg_is_read_from_its_header(tmp_path, quality):
    name = write(blobs(30, 16, 0), tmp_path / "a", "jpg", quality=quality)
    with Pillow.open(tmp_path / "a" / "000.jpg") as image:
        assert abs(quality_of(image) - quality) <= 1
    (taken,) = inputs_of(detector(name, write(blobs(30, 16, 1), tmp_path / "b"))).qualities
    assert abs(taken - quality) <= 1
    asked = detector(name, f"folder:{tmp_path / 'b'}", quality=95)
    (note,) = [n for n in spotting.load(asked).notes if "which may show" in n]
    assert "--quality" in note


def test_both_sides_and_all_generators_have_the_same_number(tmp_path):
    real = write(blobs(200, 16, 0), tmp_path / "real")
    few = write(blobs(40, 16, 1), tmp_path / "few")
    many = write(blobs(90, 16, 2), tmp_path / "many")
    dataset = spotting.load(detector(real, few, many))
    again = spotting.load(detector(real, few, many))
    assert dataset.fingerprint == again.fingerprint
    for name, split in dataset.splits.items():
        counts = np.bincount(split.arrays["source"], minlength=3)
        assert counts[0] == 2 * counts[1] == 2 * counts[2] > 0, name
        np.testing.assert_array_equal(split.target, split.arrays["source"] > 0)
    assert len(dataset.splits["test"]) == 4 * 8 and len(dataset.splits["validation"]) == 4 * 6
    assert dataset.class_names == ("real", "generated")


def test_copies_are_left_out_and_told(tmp_path):
    shared, own, others = blobs(10, 16, 0), blobs(60, 16, 1), blobs(60, 16, 2)
    real = write(np.concatenate([shared, own, own[:5]]), tmp_path / "real")
    made = write(np.concatenate([shared, others]), tmp_path / "made")
    dataset = spotting.load(detector(real, made))
    assert "10 pictures are on both sides, and are left out" in dataset.notes
    assert "5 exact copies are left out" in dataset.notes
    rows = np.concatenate([split.inputs for split in dataset.splits.values()])
    assert len(np.unique(rows.reshape(len(rows), -1), axis=0)) == len(rows)


def test_the_threshold_is_the_best_or_keeps_the_false_alarms():
    scores = np.array([0.1, 0.2, 0.3, 0.6, 0.7, 0.8, 0.9, 0.95])
    present = np.array([0, 0, 0, 1, 0, 1, 1, 1], bool)
    assert best_threshold(scores, present) == pytest.approx(0.45)  # one real picture is mistaken
    assert best_threshold(scores, present, 0.2) == pytest.approx(0.75)
    assert best_threshold(scores, present, 0.25) == pytest.approx(0.45)
    assert best_threshold([0.5, 0.5], [False, True], 0.1) > 0.5
    draws = np.random.default_rng(0).normal(size=(2, 500))
    scores, present = np.r_[draws[0], draws[1] + 1], np.arange(1000) >= 500
    tried = [((scores >= t) == present).mean() for t in scores]
    assert ((scores >= best_threshold(scores, present)) == present).mean() == max(tried)


MISTAKES = {
    "no generator": (["classify"], "has trained a classifier"),
    "no run": (["nowhere"], "no run folder nowhere"),
    "a data set": (["digits"], "--generated digits must be"),
    "empty": (["folder:empty"], "holds no image"),
    "twice": (["folder:b", "folder:b"], "folder:b is named twice"),
    "itself": (["folder:a"], "folder:a is named twice"),
    "the same": (["folder:copy"], "on both sides"),
    "few": (["folder:few"], "few has 8 usable pictures for training, and at least 20 are needed"),
    "unreadable": (["folder:bad"], "x.png"),
    "small": (["folder:b", "--image-size", "32"], "a smaller --image-size"),
    "grey": (["folder:grey"], "--channels 1"),
    "tiny": (["folder:tiny"], "show too little"),
    "network": (["folder:b", "--method", "npr", "--network", "lenet5"], "--network needs --method"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence_before_there_is_a_run(mistake, workplace, runs, cli):
    shutil.copytree(runs["classify"], workplace / "classify")
    write(blobs(40, 16, 0), workplace / "a")
    shutil.copytree(workplace / "a", workplace / "copy")
    write(blobs(40, 16, 1), workplace / "b")
    write(blobs(10, 16, 2), workplace / "few")
    write(blobs(40, 16, 3, 1), workplace / "grey")
    write(blobs(40, 6, 3), workplace / "tiny")
    write(blobs(40, 16, 4), workplace / "bad")
    (workplace / "bad" / "x.png").write_bytes(b"not a picture")
    (workplace / "empty").mkdir()
    words, said = MISTAKES[mistake]
    code, _, err = cli("spot", "train", "--real", "folder:a", "--generated", *words)
    assert code == 2 and said in err.splitlines()[-1], err
    assert not (workplace / "runs").exists()


@pytest.fixture(scope="module")
def spotted(runs, tmp_path_factory):
    """A detector of a GAN of digits: a linear model of spectra, trained for a moment."""
    from experiments.__main__ import commands

    folder = tmp_path_factory.mktemp("spot") / "run"
    words = f"spot train --real digits --generated {runs['generate']} --method spectrum"
    words += f" --pictures 300 --epochs 3 --devices 1 --run-dir {folder}"
    assert commands.main(words.split()) == 0
    return folder


def test_a_detector_is_a_classifier_with_a_threshold(spotted, runs, cli, tmp_path):
    told, summary = read_description(spotted), json.loads((spotted / "summary.json").read_text())
    column: Any = told.inputs
    assert told.threshold == summary["threshold"] and column.qualities == (90,)
    assert f"found/{runs['generate']}" in summary and 0 <= summary["auroc"] <= 1
    assert "Real or generated" in (spotted / "report.html").read_text()
    trained = load_run(spotted)
    samples = load_run(runs["generate"]).sample(6, seed=5)
    files = [f"{path}" for path in Image((8, 8, 1)).write(samples, tmp_path / "made", {})]
    records = trained.predict(files)
    for record in records:
        assert record.label == int(record.probabilities[1] >= told.threshold)
    for threshold in (0.0, 1.0):
        asked = dataclasses.replace(trained, threshold=threshold).predict(samples)
        assert {record.name for record in asked} == {"real" if threshold else "generated"}
    in_memory = trained.predict(reread(samples, column))
    assert [r.probability for r in records] == [r.probability for r in in_memory]
    code, out, _ = cli("predict", spotted, *files, "--json", tmp_path / "said.json")
    assert code == 0 and all("estimate: " in line for line in out.splitlines())
    said = json.loads((tmp_path / "said.json").read_text())
    assert (said["what"], said["threshold"]) == ("estimates", told.threshold)


def test_a_detector_is_tested_on_other_pictures(spotted, runs, cli, tmp_path):
    asked = ["--real", "digits", "--generated", runs["generate"], "--json", tmp_path / "x.json"]
    code, out, err = cli("spot", "test", spotted, *asked)
    assert code == 0 and "accuracy at the threshold" in out, err
    numbers = json.loads((tmp_path / "x.json").read_text())
    assert numbers["threshold"] == read_description(spotted).threshold
    code, _, err = cli("spot", "test", runs["classify"], *asked)
    assert code == 2 and "is no detector" in err


def test_samples_of_a_test_are_none_of_the_training(runs, monkeypatch):
    sides = Sides(real="digits", generated=(str(runs["generate"]),), pictures=50)
    seeds = []
    sample = spotting._samples

    def recorded(trained, counts, labels, seed):
        seeds.append(seed)
        return sample(trained, counts, labels, seed)

    monkeypatch.setattr(spotting, "_samples", recorded)
    both, test = (
        spotting.draw(sides, ImageOptions(), Image((8, 8, 1)), splits)
        for splits in (("train", "test"), ("test",))
    )
    assert seeds[0] == sides.seed != seeds[1]
    np.testing.assert_array_equal(both.pools[0]["test"], test.pools[0]["test"])
