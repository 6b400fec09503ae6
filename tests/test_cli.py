"""The command line: what it trains, how it is interrupted, and what it says of a mistake."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from experiments import __main__ as commands
from experiments import common
from jaxnets import evaluate, loop
from jaxnets.data import ResidentPipeline

TINY = shlex.split("--data digits --epochs 0.05 --batch-size 16 --devices 1 --steps-per-call 2")
CLASSIFY = ["classify", *TINY, "--network", "lenet5", "--width", "0.5"]
GENERATE = ["generate", *TINY, "--width", "0.1", "--no-accuracy-score"]
STEPS = 4  # 0.05 of 1,438 images, 16 at a time


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """Digits, prepared once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXNETS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    """Commands run in an empty folder."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def cli(capsys):
    """Runs a command: (exit code, standard output, standard error)."""

    def run(*arguments):
        capsys.readouterr()
        code = commands.main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The run of each command that nothing disturbed; it is not to be written to."""
    root = tmp_path_factory.mktemp("runs")
    assert commands.main([*CLASSIFY, "--run-dir", str(root / "classify")]) == 0
    assert commands.main([*GENERATE, "--run-dir", str(root / "generate")]) == 0
    return {"classify": root / "classify", "generate": root / "generate"}


@pytest.fixture
def copies(runs, tmp_path):
    """The same runs, to be written to."""
    return {name: shutil.copytree(path, tmp_path / name) for name, path in runs.items()}


def weights(folder):
    """A digest of everything in the newest checkpoint, and its step."""
    import orbax.checkpoint as ocp

    found = [p for p in (folder / "checkpoints").iterdir() if p.name.isdecimal()]
    path = max(found, key=lambda p: int(p.name))
    handler = ocp.PyTreeCheckpointHandler()
    meta = handler.metadata((path / "state").absolute()).tree
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), meta)
    args = ocp.args.PyTreeRestore(restore_args=as_numpy)
    state = handler.restore((path / "state").absolute(), args=args)
    return evaluate.digest(state), int(state["step"])


def assert_one_error(result, *words):
    code, _, err = result
    assert code == 2
    lines = err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), err
    for word in words:
        assert word in lines[0]


# ------------------------------------------------------------------- what commands leave


def test_classify_leaves_numbers_a_report_and_its_configuration(runs):
    folder = runs["classify"]
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["step"] == STEPS and 0 <= summary["test_accuracy"] <= 1
    assert summary["machine"]["backend"] == "cpu"
    config = json.loads((folder / "config.json").read_text())
    # Given flags, the preset of digits, and what is left at its default.
    expected = {"width": 0.5, "crop_padding": 1, "flip": False, "momentum": 0.85}
    assert expected.items() <= config["config"].items()
    assert config["experiment"] == "classify" and "run_dir" not in config["config"]
    report = (folder / "report.html").read_text()
    assert "lenet5 on digits" in report and report.count("<svg") == 3
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert {record["split"] for record in records} == {"train", "eval"}


def test_generate_leaves_samples_and_a_report(runs):
    folder = runs["generate"]
    assert json.loads((folder / "summary.json").read_text())["step"] == STEPS
    with Image.open(folder / "samples" / f"step-{STEPS:07}.png") as picture:
        assert picture.size[0] >= 80 and picture.size[1] >= 80
    assert "data:image/png" in (folder / "report.html").read_text()


def test_the_same_command_goes_on_and_ends_the_same(cli, copies):
    folder = copies["classify"]
    before = weights(folder)
    summary = json.loads((folder / "summary.json").read_text())
    code, out, err = cli(*CLASSIFY, "--run-dir", folder)
    assert code == 0 and "going on from step 4" in err
    assert weights(folder) == before
    again = json.loads((folder / "summary.json").read_text())
    assert again["test_accuracy"] == summary["test_accuracy"]


def test_evaluate_a_classifier(cli, copies):
    folder = copies["classify"]
    code, out, _ = cli("evaluate", folder)
    assert code == 0
    summary = json.loads((folder / "summary.json").read_text())
    found = json.loads(out)
    assert found == json.loads((folder / "evaluation.json").read_text())
    assert found["step"] == STEPS
    for name in ("test_accuracy", "test_loss", "test_balanced_accuracy"):
        assert found[name] == pytest.approx(summary[name], rel=1e-6)


def test_evaluate_a_generator_by_a_judge(cli, copies, runs):
    folder = copies["generate"]
    code, out, _ = cli("evaluate", folder, "--judge", runs["classify"], "--no-accuracy-score")
    assert code == 0
    found = json.loads(out)
    assert 0 <= found["frechet_floor"] < found["frechet_ceiling"]
    assert found["frechet"] > found["frechet_floor"] and found["frechet_samples"] == 180
    assert_one_error(cli("evaluate", folder, "--no-accuracy-score"), "--judge")


def test_samples_of_a_class(cli, copies):
    folder = copies["generate"]
    code, out, _ = cli("sample", folder, "--class-label", 3, "--count", 5)
    assert code == 0
    arrays = folder / "samples" / "sample-class-3-seed-0.npz"
    assert str(arrays) in out
    with np.load(arrays) as content:
        images, labels = content["images"], content["labels"]
    assert images.shape == (5, 8, 8, 1) and images.dtype == np.uint8
    assert labels.tolist() == [3] * 5
    with Image.open(arrays.with_suffix(".png")) as picture:
        assert picture.size[0] >= 5 * 8
    # Image i is the same however many are made, and any place will do.
    assert cli("sample", folder, "--class-label", 3, "--count", 2, "--out", "few")[0] == 0
    with np.load("few.npz") as content:
        np.testing.assert_array_equal(content["images"], images[:2])
    assert cli("sample", folder, "--count", 12, "--truncation", 0.5, "--out", "all")[0] == 0
    with np.load("all.npz") as content:
        assert content["labels"].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]


def test_list_shows_what_there_is_and_the_runs(cli, runs):
    code, out, _ = cli("list", "--runs", runs["classify"].parent)
    assert code == 0
    assert "lenet5" in out and "wgan_gp" in out and "folder:..." in out
    lines = {line.split()[0]: line for line in out.splitlines() if line.startswith("  ")}
    assert "classify on digits, test_accuracy 0." in lines[str(runs["classify"])]
    assert "generate on digits" in lines[str(runs["generate"])]
    assert "none" in cli("list")[1]


# ------------------------------------------------------------------------- interruptions


def at_feed(monkeypatch, step, act):
    """Does something when the data of a step are asked for."""
    feed = ResidentPipeline.feed

    def wrapped(self, first_step, steps):
        if first_step == step:
            act()
        return feed(self, first_step, steps)

    monkeypatch.setattr(ResidentPipeline, "feed", wrapped)


def command_to_go_on(err):
    """The arguments of the command that an interrupted one has printed."""
    words = shlex.split(err.strip().splitlines()[-1])
    assert words[:3] == ["python", "-m", "experiments"]
    assert "--run-dir" in words
    return words[3:]


@pytest.mark.parametrize(
    "arguments,number,code",
    [(CLASSIFY, signal.SIGINT, 130), (GENERATE, signal.SIGTERM, 143)],
    ids=["Ctrl-C in classify", "SIGTERM in generate"],
)
def test_an_interrupted_run_goes_on_to_the_same_bits(
    arguments, number, code, cli, runs, monkeypatch
):
    with monkeypatch.context() as patch:
        at_feed(patch, 0, lambda: os.kill(os.getpid(), number))
        found, _, err = cli(*arguments)
    assert found == code
    assert "saved at step 2" in err and "Traceback" not in err
    again = command_to_go_on(err)
    folder = Path(again[again.index("--run-dir") + 1])
    assert folder.parent == Path("runs") and weights(folder)[1] == 2
    assert not (folder / "summary.json").exists()
    found, _, err = cli(*again)
    assert found == 0 and "going on from step 2" in err
    assert list(Path("runs").iterdir()) == [folder]
    assert weights(folder) == weights(runs[arguments[0]])


def test_the_command_to_go_on_names_one_run_folder():
    for given in (["--run-dir", "a b"], ["--run-dir=a b"]):
        words = ["classify", *given, "--data", "digits"]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(common, "_opened", Path("a b"))
            patch.setattr(common, "_arguments", words)
            text = commands._how_to_go_on()
        assert command_to_go_on(text) == ["classify", "--data", "digits", "--run-dir", "a b"]


def interrupt(*args, **kwargs):
    raise KeyboardInterrupt


def test_ctrl_c_outside_the_loop_is_quiet(cli, runs, copies, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(common, "load_data", interrupt)
        for arguments in (CLASSIFY, ["evaluate", copies["classify"]]):
            code, _, err = cli(*arguments)
            assert code == 130
            # No run was begun, so there is none to go on with (least of all an earlier one).
            assert err.strip() == "interrupted"
    with monkeypatch.context() as patch:
        patch.setattr(loop, "replicate", interrupt)
        code, _, err = cli(*CLASSIFY, "--run-dir", "mine")
    assert code == 130 and "Traceback" not in err
    assert cli(*command_to_go_on(err))[0] == 0
    assert weights(Path("mine")) == weights(runs["classify"])


FULL_DISK = """
import resource, sys, time
from pathlib import Path
from experiments.__main__ import main
from jaxnets.data import ResidentPipeline

feed = ResidentPipeline.feed

def wrapped(self, first_step, steps):
    if first_step == 2:
        while not Path("run/checkpoints/2").is_dir():
            time.sleep(0.02)  # it is written while training goes on
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, resource.RLIM_INFINITY))
    return feed(self, first_step, steps)

ResidentPipeline.feed = wrapped
sys.exit(main(sys.argv[1:]))
"""


def test_a_full_disk_is_one_sentence_and_the_run_goes_on_later(cli, runs):
    arguments = [*CLASSIFY, "--run-dir", "run", "--save-every", "0.02"]
    path = os.pathsep.join(map(str, [Path(commands.__file__).parents[1], *sys.path]))
    # A process of its own, whose standard error nothing of pytest's keeps clean.
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, *arguments],
        capture_output=True,
        text=True,
        timeout=200,
        env={
            **os.environ,
            "PYTHONPATH": path,
            "JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        },
    )
    assert done.returncode == 2, done.stderr
    said = [line for line in done.stderr.splitlines() if not line.startswith("lenet5 on digits")]
    assert len(said) == 1, done.stderr
    assert said[0].startswith("error: the checkpoint of step 4 could not be saved in ")
    assert weights(Path("run"))[1] == 2
    assert cli(*arguments)[0] == 0
    assert weights(Path("run")) == weights(runs["classify"])


def test_a_run_that_diverges_tries_again_and_says_where(cli):
    line = [*CLASSIFY, "--run-dir", "run", "--learning-rate", "1e30", "--warmup", 0]
    code, _, err = cli(*line, "--max-rollbacks", 2)
    *tries, last = [line for line in err.splitlines() if "not finite" in line]
    assert code == 2
    assert [words in line for words, line in zip(("attempt 1", "attempt 2"), tries, strict=True)]
    assert last.startswith("error: training diverged: the classifier's")
    assert "2 attempts with other random numbers" in last
    assert not Path("run/summary.json").exists()


# ------------------------------------------------------------------------------ mistakes

MISTAKES = [
    (CLASSIFY, "--data digitz", "digitz", "digits, fashion_mnist"),
    (CLASSIFY, "--data folder:nowhere", "nowhere"),
    (CLASSIFY, "--network lenet6", "lenet6", "lenet5"),
    (CLASSIFY, "--network vgg16", "16x16", "8x8", "lenet5"),
    (CLASSIFY, "--loss hinge", "hinge", "cross_entropy"),
    (CLASSIFY, "--optimizer adan", "adan", "adam"),
    (CLASSIFY, "--schedule stairs", "stairs", "cosine"),
    (CLASSIFY, "--batch-size 1439", "1439", "1438"),
    (CLASSIFY, "--batch-size 12 --devices 8", "12", "8 devices", "multiple of 8"),
    (CLASSIFY, "--batch-size 0", "0"),
    (CLASSIFY, "--micro-batches 3", "16", "3"),
    (CLASSIFY, "--micro-batches 0", "0"),
    (CLASSIFY, "--micro-batches 4 --devices 8", "multiple of 32"),
    (CLASSIFY, "--devices 9", "9", "8"),
    (CLASSIFY, "--devices 0", "0", "1 to 8"),
    (CLASSIFY, "--patience 2", "--validation-fraction"),
    (CLASSIFY, "--patience 0 --validation-fraction 0.2", "--patience", "0"),
    (CLASSIFY, "--validation-fraction 1.5", "1.5"),
    (CLASSIFY, "--labels-per-class 500", "500"),
    (CLASSIFY, "--dropout 1.5", "1.5"),
    (CLASSIFY, "--width 0", "0"),
    (CLASSIFY, "--warmup 2", "2"),
    (CLASSIFY, "--epochs 0", "epochs"),
    (CLASSIFY, "--epochs -1", "epochs"),
    (CLASSIFY, "--epochs nan", "epochs"),
    (CLASSIFY, "--label-smoothing 1.5", "1.5"),
    (CLASSIFY, "--crop-padding 9", "9", "8"),
    (CLASSIFY, "--cutout -1", "-1"),
    (CLASSIFY, "--ema-decay 2", "2"),
    (CLASSIFY, "--mixup 0.2 --batch-size 15", "15"),
    (CLASSIFY, "--log-every 0", "--log-every"),
    (CLASSIFY, "--steps-per-call 0", "--steps-per-call"),
    (CLASSIFY, "--seed 99999999999999999999", "seed"),
    (CLASSIFY, "--image-size 16", "image size"),
    (GENERATE, "--generator stylegan", "stylegan", "dcgan"),
    (GENERATE, "--discriminator stylegan", "stylegan", "dcgan"),
    (GENERATE, "--discriminator vgg11", "vgg11", "16x16", "8x8"),
    (GENERATE, "--loss focal", "focal", "hinge"),
    (GENERATE, "--penalty r3", "r3", "wgan_gp"),
    (GENERATE, "--optimizer adan", "adan", "adam"),
    (GENERATE, "--schedule stairs", "stairs", "cosine"),
    (GENERATE, "--augment colour", "colour", "color"),
    (GENERATE, "--discriminator-steps 0", "--discriminator-steps"),
    (GENERATE, "--discriminator-steps 99", "1584", "1438"),
    (GENERATE, "--latent-size 0", "0"),
    (GENERATE, "--judge nowhere", "nowhere"),
]


@pytest.mark.parametrize(
    "command,flags,words",
    [
        pytest.param(command, flags, words, id=f"{command[0]} {flags}")
        for command, flags, *words in MISTAKES
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(command, flags, words, cli, workplace):
    assert_one_error(cli(*command, *flags.split()), *words)
    assert not list(workplace.iterdir())


def test_tyros_own_errors_have_the_same_exit_code(capsys):
    for arguments in (["clasify"], ["classify", "--epochs", "many"], ["sample"]):
        with pytest.raises(SystemExit) as left:
            commands.main(arguments)
        assert left.value.code == 2
        assert capsys.readouterr().err


def test_the_folder_of_another_run_is_refused(cli, copies):
    before = {p: p.stat().st_mtime_ns for p in copies["classify"].rglob("*")}
    folder = ["--run-dir", copies["classify"]]
    assert_one_error(cli(*GENERATE, *folder), "a run of `classify`, not of `generate`")
    assert_one_error(cli(*CLASSIFY, *folder, "--seed", 1), "seed (there 0, asked 1)")
    assert {p: p.stat().st_mtime_ns for p in copies["classify"].rglob("*")} == before


def test_folders_that_are_no_runs_are_refused(cli, workplace):
    mine = workplace / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("keep")
    assert_one_error(cli(*CLASSIFY, "--run-dir", mine), "not the folder of a run")
    assert_one_error(cli(*CLASSIFY, "--run-dir", mine / "notes.txt" / "run"), "cannot write")
    for command in ("evaluate", "sample"):
        assert_one_error(cli(command, mine), "no config.json")
        assert_one_error(cli(command, workplace / "nowhere"), "nowhere")
        (workplace / "config.json").write_text("{}")
        assert_one_error(cli(command, workplace), "config.json")
        (workplace / "config.json").unlink()
    assert [p.name for p in mine.iterdir()] == ["notes.txt"]


def test_a_folder_without_permission_is_one_sentence(cli, copies, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda *args, **kwargs: False)
        assert_one_error(cli(*CLASSIFY, "--run-dir", copies["classify"]), "no permission")
    mkdir = Path.mkdir

    def forbidden(self, *args, **kwargs):
        if self.name == "run":
            raise PermissionError(13, "Permission denied", str(self))
        mkdir(self, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", forbidden)
    assert_one_error(cli(*CLASSIFY, "--run-dir", "run"), "run", "Permission denied")


def test_runs_that_cannot_be_asked_that(cli, copies):
    classify, generate = copies["classify"], copies["generate"]
    assert_one_error(cli("sample", classify), "samples need one of `generate`")
    for label in (10, -1):
        wrong = cli("sample", generate, "--class-label", label)
        assert_one_error(wrong, f"class label {label} is outside 0..9")
    for truncation in (0.0, 1.5, -1.0):
        assert_one_error(cli("sample", generate, "--truncation", truncation), "(0, 1]")
    assert_one_error(cli("sample", generate, "--count", 0), "--count")
    (classify / "file").write_text("")
    assert_one_error(cli("sample", generate, "--out", classify / "file" / "x"), "choose another")
    assert_one_error(cli("evaluate", classify, "--judge", classify), "--judge")
    assert_one_error(cli("evaluate", generate, "--judge", generate), "must be one of `classify`")
    assert_one_error(cli(*GENERATE, "--judge", generate), "must be one of `classify`")
    for folder in (classify, generate):
        shutil.rmtree(folder / "checkpoints")
        assert_one_error(cli("evaluate", folder), "no checkpoint")
    assert_one_error(cli("sample", generate), "no checkpoint")
    assert_one_error(cli(*GENERATE, "--judge", classify), "no checkpoint")
    assert not Path("runs").exists()


def folder_of_images(root, size):
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for i in range(5):
            pixels = np.random.default_rng(i).integers(0, 256, (size, size, 3), np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")


def test_images_that_cannot_be_used_are_named(cli, workplace):
    images = workplace / "images"
    folder_of_images(images, 8)
    data = ["--data", f"folder:{images}", "--batch-size", 2]
    (images / "cat" / "0.png").write_bytes(b"no picture")
    assert_one_error(cli(*CLASSIFY, *data), "0.png")
    assert_one_error(cli(*CLASSIFY, *data, "--skip-bad", "--network", "vgg16"), "8x8")
    assert not (workplace / "runs").exists()


def test_a_judge_of_images_of_another_size_is_refused(cli, workplace):
    images = workplace / "images"
    folder_of_images(images, 16)
    judge = workplace / "judge"
    judge.mkdir()
    config = {"data": f"folder:{images}", "network": "lenet5"}
    (judge / "config.json").write_text(json.dumps({"experiment": "classify", "config": config}))
    assert_one_error(cli(*GENERATE, "--judge", judge), "16x16x3", "8x8x1")
