"""Columns: what every kind of data must do, and splits that are no images of classes."""

import json
from functools import partial

import jax
import numpy as np
import pytest

from jaxnets import columns
from jaxnets.columns import Boxes, Classes, Image, Sound, Tokens
from jaxnets.data import DataSet, ResidentPipeline, Split, StreamingPipeline, eval_batches
from jaxnets.devices.parallel import make_mesh
from jaxnets.errors import UserError
from jaxnets.losses import adversarial_loss, cross_entropy
from jaxnets.media import provenance, report
from jaxnets.models import make_classifier, make_gan
from jaxnets.run.loop import fit
from jaxnets.run.task import FitOptions, Task
from jaxnets.train.optimizers import make_optimizer
from jaxnets.train.state import TrainState, init_net
from jaxnets.train.steps import adversarial_step, classifier_step

SHAPE = (8, 8, 1)

#: One of each kind. A new kind of data belongs here.
EXAMPLES = {
    "image": Image((4, 3, 3)),
    "sound": Sound(8000, 400),
    "tokens": Tokens(("good", "bad"), 5),
    "classes": Classes(("cat", "dog", "fox")),
    "boxes": Boxes(("cell", "plate"), 5),
}


def test_every_kind_has_an_example():
    assert EXAMPLES.keys() == columns.KINDS.keys()


@pytest.mark.parametrize("column", EXAMPLES.values(), ids=EXAMPLES)
def test_every_column_keeps_its_promises(column, tmp_path):
    assert columns.from_json(json.loads(json.dumps(columns.to_json(column)))) == column
    rows = column.noise(6, seed=1)
    assert rows.shape == (6, *column.shape) and rows.dtype == column.stored
    assert not np.array_equal(rows, column.noise(6, seed=2))
    column.check(rows, "the split")
    seen = column.decode(rows)
    assert seen.shape == rows.shape and seen.dtype == column.dtype
    np.testing.assert_array_equal(seen, jax.jit(column.decode)(rows))
    np.testing.assert_array_equal(column.encode(seen), rows)
    report.html_report(tmp_path / "report.html", "rows", [column.show(rows)])
    assert json.loads(json.dumps(column.statistics(rows)))
    for path in column.write(rows, tmp_path / "made", {"seed": 3}):
        assert provenance.synthetic(path)["synthetic"] is True


def boxes_like():
    """Images with a second array of numbers, and no target."""
    rng = np.random.default_rng(0)
    further = {"extra": Image((2, 2, 1))}
    images = rng.integers(0, 256, (20, 4, 4, 1), np.uint8)
    return Split(images, columns=further, extra=rng.integers(0, 256, (20, 2, 2, 1), np.uint8))


@pytest.mark.parametrize("kind", [ResidentPipeline, StreamingPipeline])
def test_pipelines_carry_any_columns(kind):
    split = boxes_like()
    pipeline = kind(split, 8, seed=0)
    feed = jax.tree.map(lambda leaf: leaf[0], pipeline.feed(1, 1))
    batch = jax.jit(pipeline.fetch)(pipeline.source, feed)
    pipeline.close()
    rows = pipeline.order.indices(1, 1)[0]
    assert set(batch) == {"inputs", "extra", "mask"}
    for name, column in split.columns.items():
        np.testing.assert_array_equal(batch[name], column.decode(split.arrays[name][rows]))
    batches = list(eval_batches(split, 8))
    seen = np.concatenate([batch["extra"][batch["mask"]] for batch in batches])
    np.testing.assert_array_equal(seen, split.columns["extra"].decode(split.arrays["extra"]))


def test_unlabelled_examples_train_a_gan_and_name_what_they_lack():
    networks = make_gan("dcgan", image_shape=SHAPE, num_classes=None, latent_size=4, width=0.02)
    adam, key = make_optimizer("adam", 1e-3), jax.random.key(0)
    examples = np.zeros((1, 4), np.float32), np.zeros((1, *SHAPE), np.float32)
    nets = {
        player: init_net(network, key, example, None, train=False, optimizer=adam)
        for player, network, example in zip(
            ("generator", "discriminator"), networks, examples, strict=True
        )
    }
    step = adversarial_step(*networks, adversarial_loss("hinge"), adam, adam, latent_size=4)
    split = Split(np.zeros((16, *SHAPE), np.uint8))
    pipeline = ResidentPipeline(split, 16, seed=0)
    batch = jax.jit(pipeline.fetch)(pipeline.source, pipeline.feed(0, 1)[0])
    _, metrics = jax.jit(step)(TrainState.create(key, nets), batch)
    assert np.isfinite(metrics["d_loss"].compute())
    assert len(split.take([1, 2])) == 2 and not split.labelled
    with pytest.raises(UserError, match="have no labels"):
        _ = split.target


def test_a_data_set_of_arrays_names_its_classes_itself():
    images = np.zeros((4, 2, 2, 1), np.uint8)
    splits = {
        "train": Split(images, np.array([0, 1, 2, 0], np.int32)),
        "test": Split(images[:1], np.zeros(1, np.int32)),
    }
    dataset = DataSet("mine", splits)
    assert dataset.class_names == ("0", "1", "2") and len(dataset.fingerprint) == 64
    named = DataSet("mine", splits, ("a", "b", "c"))
    assert named.columns["target"] == Classes(("a", "b", "c"))
    assert named.fingerprint != dataset.fingerprint
    unlabelled = DataSet("mine", {name: Split(s.inputs) for name, s in splits.items()})
    assert unlabelled.num_classes == 0 and unlabelled.fingerprint != dataset.fingerprint


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"inputs": np.zeros((3, 5), np.float32)}, "images must be .* give its column"),
        (
            {"inputs": np.zeros((3, 2, 2, 1), np.uint8), "boxes": np.zeros((3, 4))},
            "the array 'boxes' needs its column",
        ),
        (
            {
                "inputs": np.zeros((3, 2, 2, 1), np.uint8),
                "columns": {"inputs": Image((4, 4, 1))},
            },
            r"inputs must be \[N, 4, 4, 1\] uint8 \(image\), not \(3, 2, 2, 1\) uint8",
        ),
    ],
)
def test_arrays_that_are_not_as_their_column_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        Split(**arguments)


@pytest.mark.parametrize("kind", [ResidentPipeline, StreamingPipeline])
def test_labels_that_count_from_one_are_named_before_the_training(kind, tmp_path):
    images, labels = np.zeros((16, *SHAPE), np.uint8), np.arange(16, dtype=np.int32) % 10 + 1
    model, adam = (
        make_classifier("speed_net", num_classes=10, image_shape=SHAPE, width=0.1),
        make_optimizer("adam", 1e-3),
    )
    net = partial(init_net, model, jax.random.key(0), np.zeros((1, *SHAPE), np.float32))
    task = Task(
        "labels from one",
        lambda: TrainState.create(
            jax.random.key(0), {"classifier": net(train=False, optimizer=adam)}
        ),
        classifier_step(model, cross_entropy, adam),
        kind(Split(images, labels), 8, seed=0),
        total_steps=2,
        evaluate=lambda state: {},
    )
    with pytest.raises(UserError, match=r"label 10 of example 9 in .* is outside 0\.\.9"):
        fit(task, tmp_path, make_mesh(1), FitOptions())
    assert not list(tmp_path.iterdir())
