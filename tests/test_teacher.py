"""A CNN that teaches a GAN: distilled, matched, or looked through."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from jaxnets import data, losses
from jaxnets.commands import classify, generate, teaching, training
from jaxnets.commands.configs.classify import Classify
from jaxnets.commands.configs.generate import Generate, read_again, resolve
from jaxnets.commands.configs.reading import config_from
from jaxnets.commands.session import Session
from jaxnets.devices.parallel import make_mesh
from jaxnets.errors import UserError
from jaxnets.losses import adversarial_loss
from jaxnets.models.conditioning import TaughtDiscriminator
from jaxnets.models.projected import ProjectedDiscriminator
from jaxnets.run.load import load_run

KEY = jax.random.key(0)
FAST = {"epochs": 0.05, "batch_size": 16, "devices": 1, "pictures": False, "eval_every": 0.0}


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """The folder of a CNN's run."""
    folder = tmp_path_factory.mktemp("teacher") / "run"
    options = {**FAST, "network": "lenet5", "width": 0.5, "epochs": 1.0}
    return classify.run(Classify(data="digits", run_dir=folder, **options), Session())


def asked(**options):
    """What is asked for of a small GAN; the judge is nobody."""
    small = {"generator": "dcgan", "width": 0.1, "accuracy_score": False, "judge": "none"}
    options = {**small, **FAST, "data": "digits", **options}
    return Generate(**{**options, "judge": Path(options["judge"])})


def scales(images):
    """A CNN of two sizes, the largest first."""
    half = images.reshape(-1, 4, 2, 4, 2, 1).mean(axis=(2, 4))
    return images, jnp.concatenate([half, half**2], axis=-1)


def test_distillation_is_one_minus_the_cosine_of_real_images_alone():
    seen = np.array([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]], np.float32)
    taught = jnp.array([[3.0, 0.0], [0.0, -1.0], [1.0, 0.0]])
    real = losses.Side(jnp.zeros((3, 8, 8, 1)), jnp.zeros(3), {"taught": taught})
    fake = losses.Side(jnp.ones((3, 8, 8, 1)), jnp.zeros(3), {})
    play = losses.Play(
        {"mask": jnp.ones(3)},
        None,
        {},
        {},
        {},
        None,
        real,
        fake,
        None,
        None,  # type: ignore[arg-type]
    )
    term = losses.Distillation(lambda images: jnp.asarray(seen) + images.sum())
    values, metrics = term(play, KEY)
    np.testing.assert_allclose(values, [0.0, 2.0, 1 - 2**-0.5], atol=1e-5)
    assert metrics["distillation"].compute() == pytest.approx(float(values.mean()), rel=1e-5)


def test_a_discriminator_learns_what_the_teacher_sees():
    inner = tiny.TinyDiscriminator()
    features = lambda images: images.reshape(len(images), -1)[:, :5]  # noqa: E731
    start, step = tiny.gan(
        discriminator=TaughtDiscriminator(inner, 5), terms=[losses.Distillation(features)]
    )
    run, batch, told = jax.jit(step), tiny.batch(), []
    for _ in range(60):
        start, metrics = run(start, batch)
        told.append(metrics["distillation"].compute())
    assert told[-1] < 0.7 * told[0]
    plain, unwrapped = tiny.gan(terms=[losses.Distillation(features)])
    with pytest.raises(UserError, match="TaughtDiscriminator"):
        jax.eval_shape(unwrapped, plain, batch)


def test_hinges_of_several_heads_are_summed():
    real, fake = jnp.array([[0.5, 2.0], [-1.0, 0.0]]), jnp.array([[-2.0, 0.0], [0.5, 0.0]])
    loss = adversarial_loss("hinge")
    np.testing.assert_allclose(loss.d_loss(real, fake), [0.5 + 0 + 0 + 1, 2 + 1 + 1.5 + 1])
    np.testing.assert_allclose(loss.g_loss(real, fake), [2.0, -0.5])


def test_the_mixing_never_learns_and_follows_from_the_key():
    heads = ProjectedDiscriminator(scales, num_classes=tiny.CLASSES, width=4)
    start, step = tiny.gan("hinge", discriminator=heads, penalty=None)
    before = start.nets["discriminator"]
    assert before.model_state["mixing"].keys() == {"channels1", "channels2", "sizes1"}
    batch, run = tiny.batch(), jax.jit(step)
    after, metrics = run(start, batch)
    jax.tree.map(
        np.testing.assert_array_equal,
        after.nets["discriminator"].model_state["mixing"],
        before.model_state["mixing"],
    )
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), after.nets["discriminator"].params,
                         before.params)  # fmt: skip
    assert all(change > 0 for name, change in _leaves(moved) if "kernel" in name)
    assert np.isfinite(metrics["g_loss"].compute())
    of_generator = jax.tree.map(jnp.subtract, after.nets["generator"].params,
                                start.nets["generator"].params)  # fmt: skip
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(of_generator))
    images, labels = batch["inputs"], batch["target"]
    first, again, other = (heads.init(jax.random.key(k), images, labels, train=False)
                           for k in (0, 0, 1))  # fmt: skip
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert np.abs(first["mixing"]["sizes1"] - other["mixing"]["sizes1"]).max() > 0.01
    logits = heads.apply(first, images, labels, train=False)[0]
    elsewhere = heads.apply(first, images, (labels + 1) % tiny.CLASSES, train=False)[0]
    assert logits.shape == (16, 2) and np.abs(logits - elsewhere).max(axis=0).min() > 1e-4


def _leaves(tree):
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in
            jax.tree_util.tree_leaves_with_path(tree)]  # fmt: skip


def test_features_of_a_teacher_are_standardised_and_images_fitted(teacher, digits):
    config = resolve(asked(teacher=teacher))
    cnn = teaching.load(config, digits)
    assert cnn is not None
    images = digits.columns["inputs"].decode(digits.splits["train"].inputs)
    seen = cnn.scales(images)
    sides = [each.shape[1] for each in seen]
    assert sides == sorted(set(sides), reverse=True) and sides[-1] > 1
    for each in seen:
        assert np.abs(each.mean(axis=(0, 1, 2))).max() < 0.2
        assert float(each.var(axis=(0, 1, 2)).mean()) == pytest.approx(1.0, abs=0.2)
    vector = cnn.pooled(images)
    assert vector.shape[1] == cnn.size
    assert float(vector.var(axis=0).sum()) == pytest.approx(1.0, abs=0.2)
    assert cnn.digest == load_run(teacher).facts["weights"]
    colour = jnp.concatenate([jnp.full((1, 4, 4, 1), v) for v in (1.0, 0.0, -1.0)], axis=-1)
    grey = teaching.fitted(colour, (8, 8, 1))
    np.testing.assert_allclose(grey, np.full((1, 8, 8, 1), 0.299 - 0.114), rtol=1e-5)
    np.testing.assert_allclose(teaching.fitted(grey, (8, 8, 3))[..., 2], grey[..., 0])


@pytest.mark.parametrize("teach", ["distil", "match"])
def test_both_players_are_taught_by_the_step_that_is_made(teach, teacher, digits):
    built = generate.build(resolve(asked(teacher=teacher, teach=teach)), digits, make_mesh(1))
    state = built.task.init()
    batch = {
        "inputs": jax.ShapeDtypeStruct((16, 8, 8, 1), jnp.float32),
        "target": jax.ShapeDtypeStruct((16,), jnp.int32),
        "mask": jax.ShapeDtypeStruct((16,), jnp.bool_),
    }
    metrics = jax.eval_shape(built.task.step, state, batch)[1]
    assert {"distil": "distillation", "match": "cnn_matching"}[teach] in metrics
    assert ("taught" in state.nets["discriminator"].params) == (teach == "distil")
    assert built.fingerprints == {"teacher_fingerprint": load_run(teacher).facts["weights"]}


@pytest.mark.slow
def test_a_run_goes_on_to_the_same_bits_and_samples_without_its_teacher(teacher, tmp_path, capsys):
    copy = tmp_path / "cnn"
    shutil.copytree(teacher, copy)
    config = asked(teacher=copy, teach="project", save_every=0.02)
    whole = generate.run(dataclasses.replace(config, run_dir=tmp_path / "own"), Session())
    assert f"the teacher {copy} sees images augmented" in capsys.readouterr().out
    part = dataclasses.replace(config, run_dir=tmp_path / "parts")
    generate.run(dataclasses.replace(part, epochs=0.03), Session())
    generate.run(part, Session())
    shutil.rmtree(copy)  # samples need the run alone
    one, two = (load_run(path).sample(4) for path in (whole, part.run_dir))
    np.testing.assert_array_equal(one, two)
    record = json.loads((whole / "config.json").read_text())["config"]
    assert record["teacher_fingerprint"] == load_run(teacher).facts["weights"]
    kept, resolved = read_again(config_from(Generate, record)), resolve(config)
    assert (kept.teach, kept.loss, kept.penalty) == (resolved.teach, "hinge", "none")


def test_the_judge_must_be_another_cnn(teacher, digits):
    config = resolve(asked(teacher=teacher, judge=str(teacher)))
    with pytest.raises(UserError, match="the judge is the teacher"):
        generate.build(config, digits, make_mesh(1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"teach": "match"}, "--teach needs a CNN: name its run with --teacher"),
        ({"teacher_weight": 2.0}, "--teacher-weight needs a CNN whose features join a loss"),
        ({"teacher": "x", "teach": "project", "teacher_weight": 2.0}, "--teacher-weight needs"),
        ({"teacher": "x", "teach": "project", "penalty": "r1"}, "--penalty is of one"),
        ({"teacher": "x", "teach": "project", "discriminator": "lenet5"}, "--discriminator is of"),
        ({"teacher": "x", "teach": "project", "lecam_weight": 1.0}, "--lecam-weight is of one"),
        ({"teacher": "x", "teach": "project", "conditioning": "auxiliary"}, "--conditioning is"),
        ({"sweep": "teacher_weight=1,2"}, "--sweep teacher_weight needs a CNN"),
    ],
)
def test_what_goes_with_no_teacher_is_refused(options, message):
    if "teacher" in options:
        options = {**options, "teacher": Path(options["teacher"])}
    with pytest.raises(UserError, match=message):
        resolve(asked(**options))


def test_a_teacher_that_is_none_is_refused_before_there_is_a_folder(digits, tmp_path):
    gan = tmp_path / "gan"
    config = resolve(asked(run_dir=gan))
    built = generate.build(config, digits, make_mesh(1))
    training.open_run("generate", config, digits, Session(), built)
    for folder, message in ((gan, "is a generator: a teacher"), (tmp_path / "x", "no run|not")):
        config = asked(teacher=folder, run_dir=tmp_path / "never")
        with pytest.raises(UserError, match=message):
            generate.run(config, Session())
        assert not (tmp_path / "never").exists()
