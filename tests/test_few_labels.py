"""Few labels: batches with unlabelled rows, the losses by hand, and the command's refusals."""

import dataclasses
import json
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import tiny
from experiments import budget
from experiments.studies import few_labels as study
from experiments.studies.configs import FewLabels
from jaxnets import data, losses
from jaxnets.commands import classify
from jaxnets.commands.configs.classify import Classify, resolve
from jaxnets.commands.session import Session
from jaxnets.data import ResidentPipeline, Split, augment
from jaxnets.data.pipeline import WithUnlabelled
from jaxnets.devices import parallel
from jaxnets.train import state
from jaxnets.train.few_labels import Common, Consistency, consistency_step, gan_step

RATIO, RATE = 3, 0.5
WEAK = augment.augmentation(crop_padding=1, flip=True)


class Linear(nn.Module):
    """Logits linear in the pixels, which are its features."""

    @nn.compact
    def __call__(self, x, *, train):
        x = x.reshape(x.shape[0], -1)
        return nn.Dense(tiny.CLASSES)(x), {"penultimate": x}


def batch(size=8):
    rng = np.random.default_rng(1)
    shape = (size, RATIO, tiny.SIZE, tiny.SIZE, 1)
    return {**tiny.batch(size), "unlabelled": rng.uniform(-1, 1, shape).astype(np.float32)}


def made(method, model, **options):
    """A state and its step."""
    sgd = optax.sgd(RATE)
    options = dict(options)
    common = Common(model, losses.cross_entropy, sgd, ema_decay=0.9, **options.pop("common", {}))
    make = partial(state.init_net, train=False)
    image, latents = jnp.zeros((1, 8, 8, 1)), jnp.zeros((1, tiny.LATENT))
    nets = {"classifier": make(model, jax.random.key(0), image, optimizer=sgd, ema=True)}
    if method == "gan":
        generator, slow = tiny.TinyGenerator(), optax.sgd(0.01)
        nets["generator"] = make(generator, jax.random.key(1), latents, None, optimizer=slow)
        step = gan_step(common, generator, slow, latent_size=tiny.LATENT, **options)
    else:
        step = consistency_step(common, Consistency(**options))
    return state.TrainState.create(jax.random.key(2), nets), step


def probabilities(params, images):
    """Of the linear classifier, in float64 numpy."""
    dense = {name: np.asarray(leaf, np.float64) for name, leaf in params["Dense_0"].items()}
    pixels = images.reshape(-1, 64).astype(np.float64)
    logits = pixels @ dense["kernel"] + dense["bias"]
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return pixels, shares / shares.sum(axis=1, keepdims=True)


def test_what_the_network_is_sure_of_is_learned_as_if_known():
    of, threshold, weight = batch(), 0.5, 0.7
    before, step = made("pseudo", Linear(), threshold=threshold, weight=weight)
    after, metrics = step(before, of)
    old = before.nets["classifier"].params
    x, p = probabilities(old, of["inputs"])
    u, q = probabilities(old, of["unlabelled"])
    sure, eye = q.max(axis=1) >= threshold, np.eye(tiny.CLASSES)
    assert 0 < sure.sum() < len(sure)  # or this would show nothing
    gradient = x.T @ (p - eye[of["target"]]) / len(x)
    gradient += weight * u.T @ (sure[:, None] * (q - eye[q.argmax(axis=1)])) / len(u)
    moved = np.asarray(old["Dense_0"]["kernel"]) - RATE * gradient
    new = after.nets["classifier"].params["Dense_0"]["kernel"]
    np.testing.assert_allclose(new, moved, atol=1e-5)
    assert metrics["sure"].compute() == pytest.approx(sure.mean())
    assert metrics["loss"].compute() == pytest.approx(
        -np.log(p[np.arange(len(x)), of["target"]]).mean(), rel=1e-5
    )


def test_fixmatch_learns_on_the_strong_view_what_the_weak_one_says():
    seen = []

    def strong(key, image):
        seen.append(image.shape)
        return -image

    of = batch()
    before, step = made("fixmatch", Linear(), threshold=0.0, strong=strong)
    after, _ = step(before, of)
    old = before.nets["classifier"].params
    x, p = probabilities(old, of["inputs"])
    _, q = probabilities(old, of["unlabelled"])
    u, r = probabilities(old, -of["unlabelled"])
    eye = np.eye(tiny.CLASSES)
    gradient = x.T @ (p - eye[of["target"]]) / len(x)
    gradient += u.T @ (r - eye[q.argmax(axis=1)]) / len(u)
    moved = np.asarray(old["Dense_0"]["kernel"]) - RATE * gradient
    new = after.nets["classifier"].params["Dense_0"]["kernel"]
    assert seen
    np.testing.assert_allclose(new, moved, atol=1e-5)


def test_the_discriminator_is_the_classifier_with_logsumexp_for_real():
    of, weight, entropy_weight = batch(), 0.7, 0.2
    before, step = made("gan", Linear(), weight=weight, entropy_weight=entropy_weight)
    _, metrics = step(before, of)
    u = jnp.asarray(of["unlabelled"]).reshape(-1, 8, 8, 1)
    net = before.nets["classifier"]
    logits = Linear().apply(net.variables, u, train=True)[0]
    total = jax.scipy.special.logsumexp(logits, axis=1)
    assert metrics["d_real"].compute() == pytest.approx(float(total.mean()), rel=1e-4)
    d_fake = metrics["d_fake"].compute()
    _, q = probabilities(net.params, of["unlabelled"])
    assert metrics["entropy"].compute() == pytest.approx(-(q * np.log(q)).sum(1).mean(), rel=1e-4)
    # The fakes' Z varies little here: softplus of its mean is close to the mean of softplus.
    bracket = 0.5 * (jax.nn.softplus(-total).mean() + jax.nn.softplus(d_fake))
    assert metrics["d_loss"].compute() == pytest.approx(float(bracket), rel=0.1)


def test_the_generator_comes_closer_to_the_mean_features():
    of = batch()
    now, step = made("gan", Linear(), weight=0.0, fakes=4 * RATIO)
    step, distances = jax.jit(step), []
    for _ in range(30):
        now, metrics = step(now, of)
        distances.append(metrics["matching"].compute())
    assert distances[-1] < 0.5 * distances[0]


#: With what they are told.
METHODS = {
    "pseudo": {"threshold": 0.4},
    "fixmatch": {"threshold": 0.4, "strong": augment.strong_augmentation(WEAK)},
    "gan": {"entropy_weight": 0.1, "consistency": Consistency(0.4)},
}


@pytest.mark.parametrize("method", METHODS)
def test_one_step_is_the_same_on_eight_devices(method):
    told = {**METHODS[method], "common": {"augment": WEAK, "weak": WEAK}}
    results = []
    ways: list[tuple[int, parallel.Mode]] = [(1, "jit"), (8, "jit"), (8, "pmap")]
    for devices, mode in ways:
        start, step = made(method, tiny.TinyClassifier(), **told)
        mesh = parallel.make_mesh(devices)
        after, metrics = parallel.compile_step(step, mesh, mode)(
            parallel.replicate(start, mesh), batch(16)
        )
        results.append((parallel.own_copy(after.nets), metrics["loss"].compute()))
    for nets, loss in results[1:]:
        assert loss == pytest.approx(results[0][1], rel=1e-5)
        jax.tree.map(partial(np.testing.assert_allclose, atol=2e-5), nets, results[0][0])


def test_every_labelled_row_brings_unlabelled_ones_in_their_own_order():
    images = np.arange(20, dtype=np.uint8)[:, None, None, None] * np.ones((8, 8, 1), np.uint8)
    labelled = ResidentPipeline(Split(images[:6], np.arange(6, dtype=np.int32)), 2, 5)
    others = ResidentPipeline(Split(images), 2 * RATIO, 5)
    both = WithUnlabelled(labelled, others)
    for step in (0, 7):
        feed = jax.tree.map(lambda leaf: leaf[0], both.feed(step, 1))
        found = both.fetch(jax.tree.map(jnp.asarray, both.source), feed)
        assert found["unlabelled"].shape == (2, RATIO, 8, 8, 1)
        pixels = np.round((np.asarray(found["unlabelled"]) + 1) * 127.5)[:, :, 0, 0, 0]
        np.testing.assert_array_equal(pixels.ravel(), others.feed(step, 1)[0])
        np.testing.assert_array_equal(found["target"], labelled.feed(step, 1)[0])
    assert (both.batch_size, both.num_examples) == (6, 20)


@pytest.mark.parametrize("shape", [(8, 8, 1), (12, 10, 3)])
def test_strong_changes_need_no_colour_and_affine_can_do_nothing(shape):
    image = jax.random.uniform(jax.random.key(0), shape, minval=-1.0)
    still = augment.affine(jax.random.key(1), image, rotation=0, shear=0, scale=0, fraction=0)
    np.testing.assert_allclose(still, image, atol=1e-5)
    strong = augment.strong_augmentation(WEAK)
    one, same, other = (strong(jax.random.key(k), image) for k in (1, 1, 2))
    assert one.shape == shape and bool((one == same).all()) and not bool((one == other).all())
    turned = augment.affine(jax.random.key(3), image, shear=0, scale=0, fraction=0)
    assert float(jnp.abs(turned - image).max()) > 0.1


_FEW = ("classify", "--data", "digits", "--network", "lenet5", "--labels-per-class", 5)


@pytest.mark.parametrize("method", METHODS)
def test_the_command_trains_resumes_and_the_run_can_be_used(method, cli, workplace):
    few = (*_FEW, "--few-labels", method, "--seeds", 1 + (method == "pseudo"), "--batch-size", 8)
    few = (*few, "--devices", 2, "--schedule", "constant", "--warmup", 0)
    assert cli(*few, "--epochs", 0.06, "--run-dir", "a")[0] == 0
    whole = (*few, "--epochs", 0.12)
    assert cli(*whole, "--run-dir", "a")[0] == 0
    assert cli(*whole, "--run-dir", "b")[0] == 0
    a, b = (json.loads((workplace / name / "summary.json").read_text()) for name in "ab")
    assert a["test_loss"] == b["test_loss"] and 0 < a["test_accuracy"] <= 1
    assert cli("evaluate", "a")[0] == 0


@pytest.mark.parametrize(
    "flags,words",
    [
        ("--few-labels gan", "--few-labels needs --labels-per-class"),
        ("--labels-per-class 5 --threshold 0.9", "--threshold needs --few-labels pseudo"),
        ("--labels-per-class 5 --few-labels gan --threshold 0.9", "--threshold needs"),
        ("--labels-per-class 5 --few-labels pseudo --entropy-weight 1", "--entropy-weight needs"),
        ("--labels-per-class 5 --few-labels pseudo --threshold 1.5", "--threshold must be"),
        ("--labels-per-class 5 --unlabelled-ratio 7", "--unlabelled-ratio needs --few-labels"),
        ("--labels-per-class 5 --few-labels fixmatch --unlabelled-ratio 999", "choose less"),
        ("--labels-per-class 5 --few-labels fixmatch --mixup 0.3", "--mixup blends labels"),
        ("--labels-per-class 5 --sweep threshold=0.5,0.9", "threshold needs"),
    ],
)
def test_what_means_nothing_is_refused(flags, words, refuses):
    refuses("classify", "--data", "digits", *flags.split(), words=(words,))


def test_the_study_goes_on_where_it_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(budget, "WINDOW_SECONDS", 0.01)
    monkeypatch.setattr(budget, "ROUNDS", 1)
    monkeypatch.setattr(study, "_ALL", {**study._ALL, "network": "lenet5"})
    config = FewLabels(
        data="digits",
        methods=("pseudo", "none"),
        minutes=1e-4,
        seeds=2,
        run_dir=tmp_path / "runs",
        out=tmp_path / "out.json",
    )
    first = json.loads(study.run(config, Session()).read_text())
    monkeypatch.setattr(study.classify, "run", lambda *_: pytest.fail("a cell was done again"))
    assert json.loads(study.run(config, Session()).read_text()) == first
    by_method = {row["method"]: row["scores"] for row in first["table"]}
    errors = [c["scores"]["error"] for c in first["cells"]]
    assert [c["row"]["method"] for c in first["cells"]] == ["none", "pseudo"] * 2
    saved = np.mean([1 - errors[1] / errors[0], 1 - errors[3] / errors[2]])
    assert by_method["pseudo"]["saved"]["mean"] == pytest.approx(saved)
    with pytest.raises(Exception, match="none, which the others"):
        study.run(dataclasses.replace(config, methods=("gan",)), Session())


def test_images_that_rare_leaves_out_are_not_unlabelled_ones():
    dataset, rare = data.load("digits"), 3
    config = resolve(
        Classify(
            data="digits",
            network="lenet5",
            batch_size=8,
            labels_per_class=5,
            few_labels="pseudo",
            rare=(f"{rare}=7",),
            balance="oversample",
        )
    )
    others = int((dataset.splits["train"].target != rare).sum())
    task = classify.build(config, dataset, parallel.make_mesh(1)).task
    assert task.pipeline.num_examples == others + 7
    source = jax.device_put(task.pipeline.source)
    feed = jax.tree.map(lambda leaf: leaf[0], task.pipeline.feed(0, 1))
    assert task.pipeline.fetch(source, feed)["unlabelled"].shape == (8, 2, 8, 8, 1)
