"""Golden numbers: what a change that is not to change any number must leave as it is.

`golden.json` has, for each case, a digest of all its arrays, and their projections onto some random
directions. On one kind of CPU with one jax and one compiler the digests are equal; elsewhere the
projections are, within a tolerance. Where a number is meant to change, record them again, and say
in the commit which and why:

    python -m pytest tests/test_golden.py -n 0 -m "slow or not slow" --record-golden
"""

import dataclasses
import hashlib
import json
import os
import subprocess
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import pytest

import tiny
from jaxnets import losses
from jaxnets.data import ResidentPipeline, Split, StreamingPipeline, augment
from jaxnets.devices import parallel
from jaxnets.files import cpu_kind
from jaxnets.judge import sampling
from jaxnets.train import population, state

FILE = Path(__file__).with_name("golden.json")
STEPS = 3
DIRECTIONS = 4

#: Of the length of all arrays together: what other orders of sums leave after three steps.
TOLERANCE = 2e-3

#: Everything that a step may keep in its state beside the networks, as it begins.
EXTRA = {"augment_probability": 0.25, "lecam_real": 0.0, "lecam_fake": 0.0, "path_length_mean": 0.0}


def place():
    """What digests depend on besides the code."""
    compiler = os.environ.get("CXX", "c++")
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False)
    return {
        "cpu": cpu_kind(),
        "jax": f"{jax.__version__} {jaxlib.__version__}",
        "compiler": version.stdout.partition("\n")[0],
        "flags": os.environ["XLA_FLAGS"],
    }


def numbers(tree):
    """All arrays of a tree, by their names."""
    tree = jax.tree.map(
        lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x,
        tree,
    )
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(tree))
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def described(tree):
    """Digest and projections of a tree of arrays."""
    digest, flat = hashlib.sha256(), []
    for name, leaf in numbers(tree).items():
        digest.update(f"{name} {leaf.dtype} {leaf.shape} ".encode() + leaf.tobytes())
        flat.append(leaf.ravel().astype(np.float64))
    values = np.concatenate(flat)
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (DIRECTIONS, values.size))
    return {
        "digest": digest.hexdigest()[:16],
        "length": round(float(np.linalg.norm(values)), 7),
        "projections": (signs @ values).round(7).tolist(),
    }


def trained(made, *, devices=1, mode="jit"):
    """What is left after three steps: networks, averages, optimisers, and the metrics."""
    start, step = made[:2]
    mesh = parallel.make_mesh(devices)
    now = parallel.replicate(state.TrainState.create(start.key, start.nets, EXTRA), mesh)
    compiled = parallel.compile_step(step, mesh, mode)
    for i in range(STEPS):
        now, metrics = compiled(now, tiny.batch(seed=i))
    return now.nets, now.extra, metrics


def family(name, penalty, **options):
    loss, width = {
        "dcgan": ("non_saturating", 0.02),
        "sngan": ("hinge", 0.02),
        "r3gan": ("relativistic", 0.05),
        "stylegan2": ("non_saturating", 0.02),
    }[name]
    return trained(tiny.family(name, loss, width=width, rate=1e-2, penalty=penalty, **options))


def adaptive():
    moves = augment.gan_augmentation("translation,flip")
    return tiny.gan(
        augment=moves,
        augment_probability=augment.Adaptive(images=1000),
        terms=[losses.LeCam(), losses.FeatureMatching(0.5)],
        discriminator_steps=2,
        norm=True,
    )


def members():
    """Two classifiers with their own learning rates, as `--seeds` and `--sweep` train them."""
    from jaxnets.train import optimizers

    def make(hypers):
        return tiny.classifier(optimizer=optimizers.make_optimizer("nesterov", hypers["rate"]))

    starts = [make({"rate": rate})[0] for rate in (0.1, 0.02)]
    starts = [
        state.TrainState.create(jax.random.key(i), start.nets, {"rate": rate})
        for i, (start, rate) in enumerate(zip(starts, (0.1, 0.02), strict=True))
    ]
    now = population.population_state(starts)
    step = population.population_step(
        lambda hypers: make(hypers)[1], ["one", "two"], batch_axis=None
    )
    step = jax.jit(step)
    for i in range(STEPS):
        now, metrics = step(now, tiny.batch(seed=i))
    return now.nets, metrics


def pipeline(kind):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 6, 5, 3), np.uint8)
    made = kind(Split(images, rng.integers(0, 10, 40).astype(np.int32)), 16, 3)
    feed, fetch = made.feed(1, 4), jax.jit(made.fetch)
    found = [fetch(made.source, jax.tree.map(lambda leaf, i=i: leaf[i], feed)) for i in range(4)]
    made.close()
    # The digests name the leaves as they were called when they were recorded.
    before = {"image": "inputs", "label": "target", "mask": "mask"}
    return [{old: batch[new] for old, new in before.items()} for batch in found]


def samples():
    start, _, _ = tiny.family("dcgan", "non_saturating", width=0.02, rate=1e-2)
    generator, _ = tiny.models.make_gan(
        "dcgan",
        image_shape=(8, 8, 1),
        num_classes=tiny.CLASSES,
        latent_size=tiny.LATENT,
        width=0.02,
    )
    draw = sampling.make_sample(generator, latent_size=tiny.LATENT, conditional=True)
    labels = np.arange(6, dtype=np.int32) % tiny.CLASSES
    return draw(start.nets["generator"].averaged, jax.random.key(5), labels)


classifier = tiny.classifier
PENALTIES = [None, *losses.PENALTIES]

CASES = {
    "classifier": lambda: trained(classifier()),
    "classifier, mixup and micro-batches": lambda: trained(
        classifier(mixup_alpha=0.4, micro_batches=2)
    ),
    "classifier, 8 devices by jit": lambda: trained(classifier(), devices=8),
    "classifier, 8 devices by pmap": lambda: trained(classifier(), devices=8, mode="pmap"),
    "GAN, 8 devices by pmap": lambda: trained(tiny.gan(), devices=8, mode="pmap"),
    "GAN, 8 devices by jit": lambda: trained(tiny.gan(), devices=8),
    "GAN, micro-batches": lambda: trained(tiny.gan(micro_batches=2)),
    **{f"GAN, {p}": lambda p=p: trained(tiny.gan(penalty=p)) for p in PENALTIES},
    "GAN, ADA, LeCam and feature matching": lambda: trained(adaptive()),
    "AC-GAN": lambda: family(
        "dcgan",
        None,
        conditioning="auxiliary",
        terms=[losses.Auxiliary(player, 0.5) for player in ("discriminator", "generator")],
    ),
    "stylegan2, path lengths": lambda: family("stylegan2", "r1", terms=[losses.PathLength(2.0)]),
    **{
        f"{name}, {penalty}": lambda name=name, penalty=penalty: family(name, penalty)
        for name in ("dcgan", "sngan", "r3gan", "stylegan2")
        for penalty in PENALTIES
    },
    "population": members,
    "resident pipeline": lambda: pipeline(ResidentPipeline),
    "streaming pipeline": lambda: pipeline(StreamingPipeline),
    "samples of a seed": samples,
}

#: One case of each kind for every day; all of them behind the marker.
FAST = [
    "classifier, mixup and micro-batches",
    "classifier, 8 devices by pmap",
    "GAN, 8 devices by jit",
    "GAN, wgan_gp",
    "GAN, ADA, LeCam and feature matching",
    "AC-GAN",
    "stylegan2, path lengths",
    "population",
    "resident pipeline",
    "streaming pipeline",
    "samples of a seed",
]


def compare(recorded, found):
    """Fails where numbers are further off than other orders of sums explain."""
    length = recorded["length"]
    np.testing.assert_allclose(found["length"], length, rtol=TOLERANCE)
    np.testing.assert_allclose(
        found["projections"], recorded["projections"], rtol=0, atol=TOLERANCE * length
    )


@pytest.mark.parametrize(
    "name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in CASES]
)
def test_numbers_are_those_of_before(name, pytestconfig):
    golden = json.loads(FILE.read_text()) if FILE.exists() else {"place": {}, "cases": {}}
    found = described(CASES[name]())
    if pytestconfig.getoption("--record-golden"):
        golden["place"] = place()
        golden["cases"] = {n: golden["cases"].get(n) for n in CASES} | {name: found}
        FILE.write_text(json.dumps(golden, indent=1) + "\n")
        return
    recorded = golden["cases"][name]
    compare(recorded, found)
    if place() == golden["place"]:
        assert found["digest"] == recorded["digest"]


def test_a_small_change_of_one_parameter_is_noticed():
    """By the projections, which are all that another kind of CPU has."""
    start, _ = classifier()
    recorded = described(start.nets)
    compare(recorded, described(start.nets))
    for factor in (1.0 + 3 * TOLERANCE, 1.0 - 3 * TOLERANCE):
        other = jax.tree.map(partial(np.multiply, factor), start.nets)
        with pytest.raises(AssertionError):
            compare(recorded, described(other))
    params = start.nets["classifier"].params
    swapped = jax.tree.map(lambda x: x[..., ::-1], params)
    net = dataclasses.replace(start.nets["classifier"], params=swapped)
    with pytest.raises(AssertionError):
        compare(recorded, described({"classifier": net}))
