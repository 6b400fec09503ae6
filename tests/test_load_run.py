"""What a run has trained is used without its data: loaded, asked for classes, for samples."""

import csv
import json
import shutil
import wave
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import jaxnets as jn
from command_lines import assert_one_error, newest, run, summary
from jaxnets import data
from jaxnets.errors import UserError
from jaxnets.run import trained
from jaxnets.run.load import Description, load_run

pytestmark = pytest.mark.usefixtures("workplace")

CLASSES = tuple("0123456789")


@pytest.fixture(scope="module")
def cnn(runs):
    return load_run(runs["classify"])


@pytest.fixture(scope="module")
def gan(runs):
    return load_run(runs["generate"])


def digits(count, folder=None):
    """The first test images and their labels, as PNGs too where a folder is named."""
    test = jn.load("digits").splits["test"].take(slice(0, count))
    if folder is not None:
        folder.mkdir(exist_ok=True)
        for i, image in enumerate(test.inputs):
            Image.fromarray(image[..., 0]).save(folder / f"{i:03}.png")
    return test


def test_a_run_is_its_network_and_what_went_in_and_out(cnn, gan, runs):
    state, step = newest(runs["classify"])
    kept = state["nets"]["classifier"]["ema"]["params"]["head"]["kernel"]
    assert isinstance(cnn, trained.TrainedClassifier) and cnn.step == step
    assert cnn.class_names == CLASSES and cnn.columns["inputs"] == jn.Image((8, 8, 1))
    assert cnn.config["network"] == "lenet5" and cnn.facts["data"] == "digits"
    np.testing.assert_array_equal(cnn.variables["params"]["head"]["kernel"], kept)
    average = newest(runs["generate"])[0]["nets"]["generator"]["ema"]["params"]
    for name, layer in average.items():
        for leaf in layer:
            np.testing.assert_array_equal(gan.variables["params"][name][leaf], layer[leaf])


def test_a_run_needs_its_folder_alone(runs, tmp_path, monkeypatch):
    """Copied to a machine without the data, and asked from another folder."""
    copy = shutil.copytree(runs["classify"], tmp_path / "elsewhere" / "cnn")
    monkeypatch.setenv("JAXNETS_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr(data, "load", lambda *_, **__: pytest.fail("it asked for the data"))
    monkeypatch.chdir(tmp_path)
    rows = np.zeros((2, 8, 8, 1), np.uint8)
    here = jn.load_run("elsewhere/cnn").predict(rows)
    assert [p.probabilities.sum() for p in here] == pytest.approx([1, 1])
    shutil.rmtree(copy)


def test_predictions_are_those_of_evaluate(cnn, runs, tmp_path):
    test = digits(None)
    probabilities = np.stack([p.probabilities for p in cnn.predict(test.inputs)])
    assert (probabilities.argmax(axis=1) == test.target).mean() == pytest.approx(
        summary(runs["classify"])["test_accuracy"]
    )
    log = np.log(probabilities[np.arange(len(test)), test.target])
    assert -log.mean() == pytest.approx(summary(runs["classify"])["test_loss"], rel=1e-5)
    # From files the same, whatever the batch that they come in.
    digits(40, tmp_path / "pictures")
    files = cnn.predict(tmp_path / "pictures")
    np.testing.assert_allclose([p.probabilities for p in files], probabilities[:40], atol=1e-6)
    first = files[0]
    assert first.source == str(tmp_path / "pictures" / "000.png")
    assert first.top(2)[0] == (first.name, first.probability) and first.name == str(first.label)
    assert [share for _, share in first.top(10)] == sorted(first.probabilities)[::-1]


def test_rows_of_another_kind_are_refused(cnn):
    with pytest.raises(UserError, match=r"rows \[N, 8, 8, 1\] uint8 \(image\), not \[1, 8, 8, 3\]"):
        cnn.predict(np.zeros((1, 8, 8, 3), np.uint8))
    with pytest.raises(UserError, match=r"not \[1, 8, 8, 1\] float32"):
        cnn.predict(np.zeros((1, 8, 8, 1), np.float32))
    with pytest.raises(UserError, match=r"gone.png \(there is no such file\)"):
        cnn.predict("gone.png")
    with pytest.raises(UserError, match=r"no layer 'last'; choose from .*penultimate"):
        cnn.features(np.zeros((1, 8, 8, 1), np.uint8), "last")


def test_features_are_what_the_module_gives(cnn):
    rows = digits(3).inputs
    outputs = cnn.module.apply(cnn.variables, data.normalise(rows), train=False)[1]
    for layer in ("penultimate", next(iter(outputs))):
        np.testing.assert_allclose(cnn.features(rows, layer), outputs[layer], rtol=1e-4, atol=1e-5)


def test_a_sample_is_the_same_in_any_number_of_samples(gan):
    many = gan.sample(40, seed=3)
    assert many.shape == (40, 8, 8, 1) and many.dtype == np.uint8
    np.testing.assert_array_equal(gan.sample(2, seed=3), many[:2])
    np.testing.assert_array_equal(gan.sample(33, seed=3), many[:33])
    assert not np.array_equal(gan.sample(2, seed=4), many[:2])
    sevens = gan.sample(8, label="7", seed=3)
    np.testing.assert_array_equal(sevens, gan.sample(8, label=7, seed=3))
    np.testing.assert_array_equal(sevens[7], many[7])  # whose turn is the class 7


def test_a_class_has_a_name_and_a_number():
    names = ("Flags", "flags of old", "2", "Food", "FOOD")
    asked = {"Flags": 0, "flags": 0, "FLAGS OF OLD": 1, "2": 2, 1: 1, "0": 0, "Food": 3, "FOOD": 4}
    assert {text: trained.class_of(names, text) for text in asked} == asked
    with pytest.raises(UserError, match="no class 'Flogs'; did you mean Flags"):
        trained.class_of(names, "Flogs")
    for wrong in ("5", "-1", -1, "food", ""):  # "food" may be either
        with pytest.raises(UserError, match=r"the classes are 0 Flags, .*, 2, 3 Food|The classes"):
            trained.class_of(names, wrong)


def test_sample_names_the_class(cli, copies):
    code, out, _ = cli("sample", copies["generate"], "--class-label", "4", "--count", 3, "--images")
    assert code == 0 and out.startswith("3 images of class 4, 4: ")
    folder = copies["generate"] / "samples"
    record = json.loads((folder / "sample-class-4-seed-0.json").read_text())
    assert record["class_names"] == list(CLASSES) and record["labels"] == [4, 4, 4]
    with np.load(folder / "sample-class-4-seed-0.npz") as arrays:
        assert arrays["class_names"].tolist() == list(CLASSES)


def test_predict_names_what_it_cannot_use_and_goes_on(cli, runs):
    digits(3, Path("in"))
    (Path("in") / "deeper").mkdir()
    Path("in/deeper/notes.png").write_text("no picture")
    command = ["predict", runs["classify"], "in", "in/00?.png", "gone.png", "--top", 2]
    code, out, err = cli(*command, "--json", "said/it.json", "--csv", "it.csv")
    assert code == 1
    sources = [f"in/00{i}.png" for i in range(3)]
    lines = out.splitlines()
    assert [line.partition(":")[0] for line in lines] == 2 * sources
    assert all(line.count("%") == 2 for line in lines)
    assert "in/deeper/notes.png: can't be used: not an image" in err
    assert "gone.png: can't be used: there is no such file" in err and "2 of 8 files" in err
    content = json.loads(Path("said/it.json").read_text())
    assert content["class_names"] == list(CLASSES) and content["data"] == "digits"
    assert [r["file"] for r in content["predictions"] if "class" in r] == 2 * sources
    assert sum("error" in r for r in content["predictions"]) == 2
    with open("it.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0].keys() == {"file", "class", "probability", "class_2", "probability_2"}
    first = content["predictions"][0]
    assert rows[0]["class"] == first["class"] == lines[0].split()[1]
    assert float(rows[0]["probability_2"]) == list(first["probabilities"].values())[1]


def test_mistakes_of_predict(cli, runs, workplace):
    (workplace / "none").mkdir()
    cnn = runs["classify"]
    assert_one_error(cli("predict", cnn, "none"), "there are no files in none")
    assert_one_error(cli("predict", runs["generate"], "x.png"), "need one of `classify`")
    assert_one_error(cli("predict", cnn, "x.png", "--csv", "none"), "--csv none is a folder")
    assert_one_error(cli("predict", cnn, "x.png", "--top", 0), "--top")
    assert_one_error(cli("predict", cnn, "x.png", "--member", 3), "no member 'seed-3'", "seed-0")
    gone = cli("predict", cnn, "x.png", "--json", "all.json")
    assert_one_error(gone, "none of the 1 files can be used", after_progress=True)
    assert not (workplace / "all.json").exists()


def test_a_run_that_does_not_say_what_its_network_is(cli, copies):
    folder = copies["classify"]
    path = folder / "network.json"
    told = json.loads(path.read_text())
    for wrong, words in (
        ({**told, "format": 2}, "does not describe a network"),
        ({**told, "kind": "oracle"}, "'oracle'"),
        ({**told, "network": {**told["network"], "name": "lenet6"}}, "lenet6"),
        ({**told, "columns": {}}, "describes no network"),
        ({**told, "network": {**told["network"], "width": 1.0}}, "not of the network"),
        ([], "does not describe a network"),
    ):
        path.write_text(json.dumps(wrong))
        assert_one_error(cli("predict", folder, "x.png"), words)
    path.unlink()
    assert_one_error(cli("predict", folder, "x.png"), "network.json", f"--run-dir {folder}")


def test_a_damaged_checkpoint_is_not_used(copies):
    place = copies["classify"] / "checkpoints"
    (step,) = [path for path in place.iterdir() if path.name.isdecimal()]
    big = max((path for path in step.rglob("*") if path.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(big.read_bytes())
    content[len(content) // 2] ^= 1
    big.write_bytes(content)
    with pytest.raises(UserError, match=r"no checkpoint .* is good"):
        load_run(copies["classify"])


@pytest.mark.slow
def test_a_member_of_several_networks(workplace):
    run(
        "classify --data digits --network lenet5 --width 0.5 --epochs 0.05 --batch-size 16 "
        "--devices 1 --seeds 2 --run-dir two"
    )
    state, _ = newest(workplace / "two")
    kernel = state["nets"]["classifier"]["ema"]["params"]["head"]["kernel"]
    for number, member in enumerate(("seed-0", "seed-1")):
        one = load_run("two", member=member)
        np.testing.assert_array_equal(one.variables["params"]["head"]["kernel"], kernel[number])
    with pytest.raises(UserError, match=r"no member 'seed-9'; it has seed-0, seed-1"):
        load_run("two", member="seed-9")


@pytest.mark.slow
def test_sounds_and_texts_are_predicted_from_files(cli, workplace):
    rng = np.random.default_rng(0)
    for name, pitch in (("low", 100), ("high", 900)):
        folder = workplace / "sounds" / name
        folder.mkdir(parents=True)
        for i in range(6):
            times = np.arange(2000) / 4000
            samples = np.sin(2 * np.pi * pitch * times + i) * 8000 + rng.normal(0, 50, 2000)
            with wave.open(str(folder / f"{i}.wav"), "wb") as file:
                file.setparams((1, 2, 4000, 0, "NONE", ""))
                file.writeframes(samples.astype(np.int16).tobytes())
    tiny = "--epochs 1 --batch-size 4 --width 0.1 --devices 1"
    run(f"classify --data sounds:sounds --network m5 {tiny} --run-dir heard")
    code, out, _ = cli("predict", "heard", "sounds/low")
    assert code == 0 and out.count("low") >= 6 and out.startswith("sounds/low/0.wav: ")
    words = [(word, i) for i in range(8) for word in ("good", "bad")]
    rows = ["text,label"] + [f"a {word} film of {1950 + i},{word}" for word, i in words]
    (workplace / "films.csv").write_text("\n".join(rows) + "\n")
    run(f"classify --data texts:films.csv --network text_cnn {tiny} --run-dir read")
    (workplace / "new.csv").write_text("text\na good film\n\n")
    (workplace / "one.txt").write_text("a bad film")
    code, out, _ = cli("predict", "read", "new.csv", "one.txt", "--json", "said.json")
    assert code == 0
    told = json.loads((workplace / "said.json").read_text())["predictions"]
    assert [record["file"] for record in told] == ["new.csv line 2", "one.txt"]
    words = load_run("read").predict(["a good film", "a bad film"])
    for record, again in zip(told, words, strict=True):
        assert record["probabilities"][again.name] == pytest.approx(again.probability, rel=1e-5)
        assert again.source in ("a good film", "a bad film")


def test_a_description_is_written_once(runs):
    told = json.loads((runs["classify"] / "network.json").read_text())
    fields = {"kind", "network", "columns", "data", "fingerprint", "members", "views"}
    assert fields < told.keys() and told["members"] == ["seed-0"]
    assert Description.__dataclass_fields__.keys() < told.keys()
