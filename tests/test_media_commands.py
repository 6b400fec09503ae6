"""Commands on sounds and texts: a run, its report, its evaluation, and what is refused."""

import json

import numpy as np
import pytest
import soundfile

from command_lines import assert_one_error, summary

pytestmark = pytest.mark.usefixtures("workplace")

SHORT = [
    "--epochs",
    "4",
    "--batch-size",
    "8",
    "--devices",
    "1",
    "--steps-per-call",
    "2",
    "--run-dir",
    "run",
]


@pytest.fixture
def tones(workplace):
    """Two classes of ten noisy tones, and their file names' folder."""
    rng = np.random.default_rng(0)
    for label, hertz in (("high", 1500), ("low", 300)):
        (workplace / "tones" / label).mkdir(parents=True)
        for i in range(10):
            wave = 0.3 * np.sin(2 * np.pi * hertz * np.arange(1600) / 8000)
            wave += rng.normal(0, 0.03, 1600)
            soundfile.write(workplace / "tones" / label / f"{i}.wav", wave, 8000)
    return "sounds:tones"


@pytest.fixture
def opinions(workplace):
    """A table of 40 short texts in which one word tells all."""
    rng = np.random.default_rng(0)
    lines = ["label,text"]
    for i in range(40):
        words = rng.choice(["a", "film", "with", "plot", "actors"], 6).tolist()
        words[2] = ("bad", "good")[i % 2]
        lines.append(f"{('neg', 'pos')[i % 2]},{' '.join(words)}")
    (workplace / "opinions.csv").write_text("\n".join(lines))
    return "texts:opinions.csv"


def test_a_run_on_sounds_is_judged_shown_and_evaluated_again(cli, workplace, tones):
    code, out, err = cli("classify", "--data", tones, "--network", "lenet5", *SHORT)
    assert code == 0, err
    assert summary(workplace / "run")["test_accuracy"] >= 0.5
    page = (workplace / "run" / "report.html").read_text()
    assert page.count("<audio controls") == 2
    code, out, err = cli("evaluate", "run", "--devices", "1")
    assert code == 0, err
    assert json.loads(out)["test_loss"] == pytest.approx(summary(workplace / "run")["test_loss"])


def test_a_run_on_texts_stands_beside_the_linear_model(cli, workplace, opinions):
    code, out, err = cli("classify", "--data", opinions, "--width", "0.1", *SHORT)
    assert code == 0, err
    assert "test accuracy of TF-IDF of 1 to" in out
    numbers = summary(workplace / "run")
    assert numbers["linear_test_accuracy"] == 1.0 and 0 <= numbers["test_accuracy"] <= 1
    page = (workplace / "run" / "report.html").read_text()
    assert "logistic regression" in page and "film" in page
    config = json.loads((workplace / "run" / "config.json").read_text())["config"]
    assert (config["network"], config["optimizer"]) == ("text_cnn", "adam")


def test_characters_take_the_network_made_for_them(cli, workplace, opinions):
    short = ["--unit", "characters", "--width", "0.1", *SHORT, "--epochs", "1"]
    few = ["--labels-per-class", "2", "--batch-size", "4"]  # and no folds for the linear model
    code, out, err = cli("classify", "--data", opinions, *short, *few)
    assert code == 0, err
    assert "TF-IDF of 1 to 2 characters with logistic regression, C = 8" in out
    config = json.loads((workplace / "run" / "config.json").read_text())["config"]
    assert (config["network"], config["unit"]) == ("vdcnn", "characters")


def test_data_show_writes_a_page_of_players_or_texts(cli, workplace, tones, opinions):
    code, out, err = cli("data", "show", tones, "--per-class", "2")
    assert code == 0, err
    assert "rows of 1,600, seconds 0.2" in out and "sounds-tones.html" in out
    assert (workplace / "sounds-tones.html").read_text().count("<audio") == 4
    code, out, err = cli("data", "show", opinions, "--out", "page.html")
    assert code == 0, err
    assert "vocabulary 7" in out
    assert "good" in (workplace / "page.html").read_text()


MISTAKES = [
    ("classify --data sounds:nowhere", "nowhere"),
    ("classify --data sounds:tones --seconds 0.001", "choose", "--seconds"),
    ("classify --data sounds:tones --seconds 0.01 --rate 8000", "shorter than a frame"),
    ("classify --data sounds:tones --flip True", "--flip", "images"),
    ("classify --data sounds:tones --image-size 8", "takes no image size"),
    ("classify --data sounds:tones --network text_cnn", "text_cnn", "lenet5"),
    ("classify --data texts:opinions.csv --network speed_net", "speed_net", "text_cnn"),
    ("classify --data texts:opinions.csv --mixup 0.2", "--mixup", "words"),
    ("classify --data texts:opinions.csv --seconds 1", "takes no seconds", "sounds:"),
    ("classify --data texts:tones", "tones", "UTF-8"),
    ("generate --data sounds:tones", "generate", "images"),
    ("generate --data texts:opinions.csv", "generate", "images"),
]


@pytest.mark.parametrize("line, words", [(line, words) for line, *words in MISTAKES])
def test_a_mistake_is_one_sentence(line, words, cli, workplace, tones, opinions):
    before = sorted(workplace.iterdir())
    small = ["--batch-size", "8", "--devices", "1"]
    assert_one_error(cli(*line.split(), *small), *words)
    assert sorted(workplace.iterdir()) == before


def test_a_damaged_file_is_named_before_training(cli, workplace, tones):
    (workplace / "tones" / "low" / "3.wav").write_bytes(b"RIFF")
    assert_one_error(cli("classify", "--data", tones), "low/3.wav", "not a sound file")
    assert not (workplace / "runs").exists()
