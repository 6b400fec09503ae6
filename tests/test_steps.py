"""What one update does, against updates worked out another way."""

import dataclasses
import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import tiny
from jaxnets.devices import axis
from jaxnets.models import make_generator
from jaxnets.train import descent, optimizers, state


class Linear(nn.Module):
    """Logits linear in the pixels: its gradient is a textbook formula."""

    @nn.compact
    def __call__(self, x, *, train):
        x = x.reshape(x.shape[0], -1)
        return nn.Dense(tiny.CLASSES)(x), {"penultimate": x}


def linear_step(batch, **options):
    optimizer = optax.sgd(0.5)
    s, step = tiny.classifier(Linear(), optimizer=optimizer, augment=None, ema=0.75, **options)
    return s, step(s, batch)


def softmax_regression(params, batch, smoothing=0.1):
    """Gradient of the mean cross-entropy, in float64 numpy."""
    x = batch["inputs"].reshape(len(batch["inputs"]), -1).astype(np.float64)
    kernel, bias = (np.asarray(params["Dense_0"][k], np.float64) for k in ("kernel", "bias"))
    logits = x @ kernel + bias
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    target = np.eye(tiny.CLASSES)[batch["target"]] * (1 - smoothing) + smoothing / tiny.CLASSES
    keep = batch["mask"][:, None]
    error = np.where(keep, p - target, 0.0) / batch["mask"].sum()
    return {"kernel": x.T @ error, "bias": error.sum(0)}


def test_first_step_is_the_textbook_one():
    batch = tiny.batch()
    before, (after, metrics) = linear_step(batch)
    old, new = before.nets["classifier"], after.nets["classifier"]
    gradient = softmax_regression(old.params, batch)
    for name, value in gradient.items():
        expected = np.asarray(old.params["Dense_0"][name]) - 0.5 * value
        np.testing.assert_allclose(new.params["Dense_0"][name], expected, atol=1e-6)
        average = 0.75 * np.asarray(old.params["Dense_0"][name]) + 0.25 * expected
        np.testing.assert_allclose(new.ema["params"]["Dense_0"][name], average, atol=1e-6)
    norm = np.sqrt(sum(np.square(value).sum() for value in gradient.values()))
    assert metrics["grad_norm"].compute() == pytest.approx(norm, rel=1e-5)
    assert int(after.step) == 1


def test_padding_has_no_influence():
    batch = tiny.batch()
    batch["mask"] = np.arange(16) < 11
    changed = {**batch, "inputs": batch["inputs"].copy()}
    changed["inputs"][11:] = np.nan
    before, (after, metrics) = linear_step(batch)
    _, (also, _) = linear_step(changed)
    gradient = softmax_regression(before.nets["classifier"].params, batch)["bias"]
    expected = before.nets["classifier"].params["Dense_0"]["bias"] - 0.5 * gradient
    params = after.nets["classifier"].params
    np.testing.assert_allclose(params["Dense_0"]["bias"], expected, atol=1e-6)
    assert metrics["loss"].count == 11
    # As tf.data and others pad: a label that is none.
    changed["target"] = np.where(np.arange(16) < 11, batch["target"], -1).astype(np.int32)
    # NaN in the padding reaches the gradient of a matrix product; finite padding must not.
    changed["inputs"][11:] = 7.0
    _, (also, _) = linear_step(changed)
    chex.assert_trees_all_close(also.nets["classifier"].params, params, atol=1e-6)


def test_micro_batches_give_the_gradient_of_the_whole_batch():
    _, (whole, m1) = linear_step(tiny.batch())
    _, (parts, m4) = linear_step(tiny.batch(), micro_batches=4)
    chex.assert_trees_all_close(
        whole.nets["classifier"].params, parts.nets["classifier"].params, atol=1e-6
    )
    assert m1["loss"].compute() == pytest.approx(m4["loss"].compute(), rel=1e-5)
    assert m4["loss"].count == 16


def test_micro_batches_must_divide_the_batch():
    with pytest.raises(ValueError, match="16 does not divide into 3"):
        linear_step(tiny.batch(), micro_batches=3)


def test_parts_of_a_batch_are_dealt():
    parts = descent.split_batch({"i": np.arange(16)}, 4)["i"]
    assert sorted(np.asarray(parts).ravel()) == list(range(16))
    np.testing.assert_array_equal(parts[1], [1, 5, 9, 13])


def test_how_sure_a_discriminator_is_under_a_loss_of_differences():
    start, step = tiny.gan(loss="relativistic", penalty=None)
    metrics = {k: v.compute() for k, v in jax.jit(step)(start, tiny.batch())[1].items()}
    assert metrics["d_sign_real"] == pytest.approx(-metrics["d_sign_fake"], abs=1e-6)
    assert metrics["d_accuracy"] == pytest.approx((1 + metrics["d_sign_real"]) / 2, abs=1e-6)


def test_steps_draw_new_random_numbers_each_step_and_the_same_ones_again():
    s, step = tiny.classifier(optimizer=optax.set_to_zero(), ema=None)
    run = jax.jit(step)
    batch = tiny.batch()
    first, metrics = run(s, batch)
    _, again = run(s, batch)
    _, later = run(first, batch)
    assert metrics["loss"].total == again["loss"].total
    assert metrics["loss"].total != later["loss"].total


@functools.cache
def compiled_gan():
    """A GAN's first state, and its step, which may be compiled but once."""
    s, step = tiny.gan()
    return s, jax.jit(chex.assert_max_traces(step.__call__, n=1))


def test_a_gan_draws_new_random_numbers_each_step_and_the_same_ones_again():
    s, run = compiled_gan()

    def losses_at(number):
        now = dataclasses.replace(s, step=jnp.asarray(number, jnp.int32))
        _, metrics = run(now, tiny.batch())
        return [float(metrics[name].total) for name in ("d_loss", "g_loss")]

    first, later = losses_at(0), losses_at(1)
    assert losses_at(0) == first
    # The networks and the images are the same: only latents and dropout can differ.
    assert all(a != b for a, b in zip(first, later, strict=True))


def test_weight_decay_spares_norms_and_biases():
    s, step = tiny.classifier(
        optimizer=optimizers.make_optimizer("sgd", 0.0, weight_decay=0.1), ema=None
    )
    marks = optimizers.decays(s.nets["classifier"].params)
    assert marks["Conv_0"] == {"kernel": True, "bias": False}
    assert not any(jax.tree.leaves(marks["BatchNorm_0"]))
    generator = make_generator(image_shape=(8, 8, 1), num_classes=3, width=0.1)
    made = jax.eval_shape(
        lambda: generator.init(
            jax.random.key(0), jnp.zeros((1, 64)), jnp.zeros(1, int), train=False
        )
    )
    marks = optimizers.decays(made["params"])
    assert marks["embedding"] == {"kernel": True}
    assert not any(jax.tree.leaves(marks["norm0"]))
    optimizer = optimizers.make_optimizer("sgd", 0.5, weight_decay=0.1)
    params = s.nets["classifier"].params
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    np.testing.assert_allclose(
        updates["Conv_0"]["kernel"], -0.05 * params["Conv_0"]["kernel"], rtol=1e-6
    )
    assert not np.any(updates["Conv_0"]["bias"])


def test_clipping_bounds_the_gradient_and_not_its_record():
    optimizer = optimizers.make_optimizer("sgd", 1.0, momentum=0.0, clip_norm=1e-3)
    s, step = tiny.classifier(optimizer=optimizer, ema=None)
    after, metrics = jax.jit(step)(s, tiny.batch())
    moved = jax.tree.map(jnp.subtract, after.nets["classifier"].params, s.nets["classifier"].params)
    assert float(optax.tree.norm(moved)) == pytest.approx(1e-3, rel=1e-3)
    assert metrics["grad_norm"].compute() > 1e-2


def test_example_keys_follow_the_global_place():
    key = jax.random.key(3)
    whole = jax.random.key_data(axis.example_keys(key, 8))
    shares = jax.pmap(lambda _: jax.random.key_data(axis.example_keys(key, 2)), axis_name="data")(
        np.zeros(4)
    )
    np.testing.assert_array_equal(np.asarray(shares).reshape(whole.shape), whole)
    assert not axis.is_bound()


def test_an_averaged_network_has_averaged_statistics():
    ema = {"params": {"w": 3.0}, "model_state": {"batch_stats": {"mean": 4.0}}}
    net = state.Net({"w": 1.0}, {"batch_stats": {"mean": 2.0}}, opt_state=(), ema=ema)
    assert net.averaged == {"params": {"w": 3.0}, "batch_stats": {"mean": 4.0}}
    assert net.variables == {"params": {"w": 1.0}, "batch_stats": {"mean": 2.0}}


def test_optimizers_and_schedules_by_name():
    for name in optimizers.OPTIMIZERS:
        optimizer = optimizers.make_optimizer(name, 0.1)
        params = {"w": jnp.ones((2, 2))}
        updates, _ = optimizer.update({"w": jnp.ones((2, 2))}, optimizer.init(params), params)
        assert float(updates["w"].sum()) < 0, name
    linear = optimizers.make_schedule("linear", 1.0, 100, 0.2)
    assert [round(float(linear(i)), 3) for i in (0, 20, 100)] == [0.2, 1.0, 0.0]
    cosine = optimizers.make_schedule("cosine", 1.0, 100, 0.1)
    assert [round(float(cosine(i)), 3) for i in (0, 10, 55, 100)] == [0.0, 1.0, 0.5, 0.0]
    constant = optimizers.make_schedule("constant", 1.0, 100)
    assert [float(constant(i)) for i in (0, 99)] == [1.0, 1.0]
    with pytest.raises(ValueError, match='no optimizer "adan"'):
        optimizers.make_optimizer("adan", 0.1)
    with pytest.raises(ValueError, match="no schedule"):
        optimizers.make_schedule("stairs", 0.1, 10)
