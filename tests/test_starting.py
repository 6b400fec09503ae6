"""Runs that start from trained weights, keep some of them, or go on for more epochs."""

import json
import re
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import tiny
from command_lines import CLASSIFY, GENERATE, assert_one_error, newest, run
from jaxnets.commands import starting
from jaxnets.commands.configs.classify import Classify
from jaxnets.errors import UserError
from jaxnets.models.classic import LeNet5
from jaxnets.models.resnet import ResNet, WideResNet
from jaxnets.run.load import load_run, load_weights
from jaxnets.run.runs import belongs
from jaxnets.train import freezing, optimizers

pytestmark = pytest.mark.usefixtures("workplace")

STILL = "--schedule constant --warmup 0"


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_a_classifier_starts_from_another_and_goes_on_without_it(cli, runs, tmp_path):
    source = shutil.copytree(runs["classify"], tmp_path / "source")
    command = [*CLASSIFY, "--run-dir", "b", "--init-from", str(source), "--learning-rate", "0"]
    code, out, err = cli(*command)
    assert code == 0, err
    assert f"weights of {source}: 10 of the classifier's 10 arrays\n" in out
    net = newest(tmp_path / "here" / "b")[0]["nets"]["classifier"]
    same(net["params"], load_run(source).variables["params"])
    shutil.rmtree(source)
    shutil.rmtree(tmp_path / "here" / "b" / "tensorboard")
    code, out, err = cli(*command)
    assert code == 0 and "weights of" not in out, err
    # Without a checkpoint it needs them again.
    shutil.rmtree(tmp_path / "here" / "b" / "checkpoints")
    assert_one_error(cli(*command), f"no run folder {source}")


def pictures(root, classes):
    rng = np.random.default_rng(0)
    for name in classes:
        (root / name).mkdir(parents=True)
        for i in range(20):
            Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save(root / name / f"{i}.png")
    return f"folder:{root}"


@pytest.mark.slow
def test_other_classes_get_a_new_last_layer_in_each_member(cli, runs, tmp_path):
    data = pictures(tmp_path / "pictures", "abc")
    code, out, err = cli(
        *(*CLASSIFY, "--data", data, "--channels", "1", "--seeds", "2", "--run-dir", "b"),
        *("--init-from", str(runs["classify"]), "--learning-rate", "0", "--freeze", "stage1"),
    )
    assert code == 0, err
    new = "params/head/bias, params/head/kernel"
    assert f"8 of the classifier's 10 arrays, but new {new}\n" in out
    net = newest(tmp_path / "here" / "b")[0]["nets"]["classifier"]["params"]
    old = load_run(runs["classify"]).variables["params"]
    heads = net.pop("head")["kernel"]
    assert (heads[0] != heads[1]).all() and heads.shape[-1] == 3
    for name, layer in net.items():
        same(layer, jax.tree.map(lambda leaf: np.stack([leaf, leaf]), dict(old[name])))


@pytest.mark.slow
def test_a_gan_starts_from_another(cli, runs, tmp_path):
    source, folder = runs["generate"], tmp_path / "here" / "b"
    rates = ["--generator-learning-rate", "0", "--discriminator-learning-rate", "0"]
    code, out, err = cli(*GENERATE, "--run-dir", "b", "--init-from", str(source), *rates)
    assert code == 0, err
    assert re.search(r"weights of .*: (\d+) of the generator's \1 arrays; (\d+) of the dis", out)
    weights, classes = load_weights(source, ["generator", "discriminator"])
    assert classes == 10
    state = newest(folder)[0]["nets"]
    for net, variables in weights.items():
        same(state[net]["params"], variables["params"])


def test_exported_weights_are_those_of_the_run(runs):
    for name in ("classify", "generate"):
        run(["export", str(runs[name]), "--format", "safetensors", "--out", f"{name}.safetensors"])
    start = starting.begin(Classify(init_from="classify.safetensors"), "lenet5", ["classifier"], 10)
    assert start is not None and start.nets is not None and start.classes == (10, 10)
    same(start.nets["classifier"], load_run(runs["classify"]).variables)
    with pytest.raises(UserError, match="holds no discriminator: start from the folder"):
        load_weights(Path("generate.safetensors"), ["generator", "discriminator"])


@pytest.mark.parametrize(
    ("command", "source", "words"),
    [
        (CLASSIFY, "generate", ["has trained a generator", "classifier weights are needed"]),
        (GENERATE, "classify", ["has trained a classifier", "generator weights are needed"]),
        (GENERATE, "imagenet", ["a GAN starts from a run of `generate`"]),
        (CLASSIFY, "imagenet", ["choose --network from resnet18"]),
        (CLASSIFY, "nowhere", ["no run folder nowhere"]),
        ([*CLASSIFY, "--width", "1"], "classify", ["do not fit: params/", "has shape"]),
        ([*CLASSIFY, "--freeze", "stage9"], "classify", ['no stage "stage9"', "stage1"]),
    ],
)
def test_weights_that_cannot_be_started_from(cli, runs, tmp_path, command, source, words):
    source = str(runs.get(source, source))
    assert_one_error(cli(*command, "--run-dir", "b", "--init-from", source), *words)
    assert not (tmp_path / "here" / "b").exists()


def test_freezing_needs_weights(cli):
    assert_one_error(cli(*CLASSIFY, "--freeze", "stage1"), "--freeze needs weights", "--init-from")


def names(tree, still):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {path[1].key for path, leaf in leaves if leaf == still}


@pytest.mark.parametrize(
    ("module", "stage", "frozen", "free"),
    [
        (LeNet5(3), "stage1", {"conv1"}, {"conv2", "dense1", "dense2", "head"}),
        (
            ResNet(3, (1, 1), (4, 8)),
            "stage1",
            {"conv_stem", "norm_stem", "stage1_block1"},
            {"stage2_block1", "head"},
        ),
        (
            WideResNet(3, 10, (4, 4, 8, 8)),
            "penultimate",
            {"conv_stem", *(f"stage{i}_block1" for i in (1, 2, 3)), "norm_last"},
            {"head"},
        ),
    ],
)
def test_what_a_feature_depends_on_is_frozen(module, stage, frozen, free):
    found = freezing.frozen_up_to(module, jnp.zeros((1, 16, 16, 1)), stage)
    assert names(found, True) == frozen and names(found, False) == free


def test_what_is_frozen_stays_to_the_last_bit():
    model = ResNet(tiny.CLASSES, (1, 1), (4, 8), dropout=0.2)
    frozen = freezing.frozen_up_to(model, jnp.zeros((1, 8, 8, 1)), "stage1")
    optimizer = optimizers.make_optimizer("nesterov", 0.1, weight_decay=0.01)
    optimizer = freezing.all_but(frozen["params"], optimizer)
    before, step = tiny.classifier(model, optimizer=optimizer, frozen=frozen)
    after = before
    advance = jax.jit(step)
    for seed in range(3):
        after, _ = advance(after, tiny.batch(seed=seed))
    old, new = (state.nets["classifier"] for state in (before, after))
    for variables in ("variables", "averaged"):
        a, b = getattr(old, variables), getattr(new, variables)
        equal = jax.tree.map(lambda x, y: bool((x == y).all()), dict(a), dict(b))
        assert all(jax.tree.leaves(jax.tree.map(lambda f, e: e or not f, frozen, equal)))
        assert not names(equal, True) & {"head"} and "stage2_block1" in names(equal, False)
        moved = equal["batch_stats"]["stage2_block1"]
        assert not any(jax.tree.leaves(moved))
    shapes = [leaf.shape for leaf in jax.tree.leaves(new.opt_state)]
    assert (3, 3, 1, 4) not in shapes and (3, 3, 4, 8) in shapes


def states(folder):
    state, step = newest(folder)
    return step, state


LONGER = [
    (CLASSIFY, ["--epochs", "0.02"], ["--epochs", "0.05"], STILL.split()),
    pytest.param(
        *(GENERATE, ["--epochs", "0.02"], ["--epochs", "0.05"]),
        ["--schedule", "constant"],
        marks=pytest.mark.slow,
    ),
]


@pytest.mark.parametrize(("command", "short", "long", "options"), LONGER)
def test_a_run_with_more_epochs_has_the_bits_of_a_longer_one(
    command, short, long, options, tmp_path
):
    for folder, epochs in (("a", short), ("a", long), ("b", long)):
        run(command, options, epochs, ["--run-dir", folder])
    root = tmp_path / "here"
    (step, state), (other_step, other) = states(root / "a"), states(root / "b")
    assert step == other_step > 3
    same(state, other)
    record = json.loads((root / "a" / "config.json").read_text())
    assert record["config"]["epochs"] == 0.05 and record["earlier_epochs"] == [0.02]


def test_what_ends_with_its_epochs_cannot_go_on(cli, runs, tmp_path):
    folder = shutil.copytree(runs["classify"], tmp_path / "run")
    result = cli(*CLASSIFY, "--epochs", "0.1", "--run-dir", str(folder))
    assert_one_error(result, "as --schedule linear ends with it", f"--init-from {folder}")
    result = cli(*CLASSIFY, "--epochs", "0.01", "--run-dir", str(folder))
    assert_one_error(result, "asked 0.01", "the same values")
    assert "--init-from" not in result[2]


def test_checkpoints_of_a_run_that_was_lengthened_twice_are_its_own():
    def record(epochs, *earlier):
        rest = {"earlier_epochs": list(earlier)} if earlier else {}
        return {"experiment": "classify", "config": {"epochs": epochs, "seed": 0}, **rest}

    for own in (record(1), record(2, 1), record(3, 1, 2), None):
        assert belongs(own, record(3, 1, 2))
    for other in (record(2), record(3), record(2, 2), {**record(1), "config": {"epochs": 1}}):
        assert not belongs(other, record(3, 1, 2))


def test_a_stage_without_weights_is_refused():
    class Tail(LeNet5):
        def __call__(self, x, *, train):
            logits, features = super().__call__(x, train=train)
            return logits, {"input": x, **features}

    with pytest.raises(UserError, match="comes before input: there is nothing to freeze"):
        freezing.frozen_up_to(Tail(3), jnp.zeros((1, 8, 8, 1)), "input")
