"""Walks through a generator's latents, and the animated picture of one."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from command_lines import assert_one_error
from jaxnets.errors import UserError
from jaxnets.judge.sampling import make_walk, slerp

RNG = np.random.default_rng(0)
KEY = jax.random.key(3)


class Echo(nn.Module):
    """Latents and label, as an image of one column."""

    @nn.compact
    def __call__(self, z, label=None, *, train):
        label = jnp.full(len(z), -1.0) if label is None else label.astype(jnp.float32)
        return jnp.concatenate([z, label[:, None]], axis=1)[:, None, :, None], {}


def test_the_arc_between_two_vectors():
    a, b = RNG.normal(size=(2, 50, 16)).astype(np.float32)
    np.testing.assert_allclose(slerp(a, b, np.zeros(50, np.float32)), a, atol=1e-5)
    np.testing.assert_allclose(slerp(a, b, np.ones(50, np.float32)), b, atol=1e-5)
    unit_a, unit_b = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (a, b))
    whole = np.arccos((unit_a * unit_b).sum(axis=1))
    for share in (0.25, 0.5, 0.8):
        at = np.asarray(slerp(unit_a, unit_b, np.full(50, share, np.float32)))
        np.testing.assert_allclose(np.linalg.norm(at, axis=1), 1.0, rtol=1e-4)
        np.testing.assert_allclose(np.arccos((at * unit_a).sum(axis=1)), share * whole, atol=1e-3)


@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_without_an_angle_it_is_the_straight_line(factor):
    a = RNG.normal(size=8).astype(np.float32)
    found = slerp(a, factor * a, 0.25)
    np.testing.assert_allclose(found, (0.75 + 0.25 * factor) * a, rtol=1e-5)


@pytest.mark.parametrize("batch_size", [7, 256])
def test_all_classes_take_one_walk_and_it_closes(batch_size):
    walk = make_walk(Echo(), latent_size=16, conditional=True, batch_size=batch_size)
    labels = np.array([2, 0, 5], np.int32)
    found = walk({}, KEY, labels, 4, 6)
    assert found.shape == (24, 3, 1, 17, 1)
    latents, asked = found[:, :, 0, :-1, 0], found[:, :, 0, -1, 0]
    np.testing.assert_array_equal(asked, np.tile(labels, (24, 1)))
    np.testing.assert_array_equal(latents, latents[:, :1].repeat(3, axis=1))
    steps = np.linalg.norm(np.diff(latents[:, 0], axis=0, append=latents[:1, 0]), axis=1)
    assert steps.max() < 2 * np.median(steps)  # no jump, the last one's to the first neither
    stops = jax.random.normal(KEY, (4, 1, 16))[:, 0]
    np.testing.assert_allclose(latents[::6, 0], stops, rtol=1e-5, atol=1e-6)


def test_without_classes_each_walk_is_its_own():
    found = make_walk(Echo(), latent_size=4, conditional=False)({}, KEY, 3, 2, 5)
    assert found.shape == (10, 3, 1, 5, 1)
    assert len(np.unique(found[0, :, 0, 0])) == 3 and (found[..., -1, 0] == -1).all()
    for points, frames in ((0, 5), (2, 0)):
        with pytest.raises(UserError, match="a walk of 0"):
            make_walk(Echo(), latent_size=4, conditional=False)({}, KEY, 3, points, frames)


def test_the_command_makes_an_animated_picture(cli, copies, workplace):
    command = ["sample", copies["generate"], "--count", 4, "--out", "walk", "--points", 2]
    code, out, err = cli(*command, "--interpolate", 3)
    assert code == 0 and "6 frames: walk-walk.png" in out, err
    with Image.open("walk-walk.png") as picture:
        assert picture.n_frames == 6 and picture.info["loop"] == 0
        wide = picture.size[0]
    assert cli(*command, "--interpolate", 2, "--class-label", 3)[0] == 0
    with Image.open("walk-walk.png") as picture:
        assert picture.n_frames == 4 and picture.size[0] < wide / 5
    before = sorted(p.name for p in workplace.iterdir())
    assert_one_error(cli(*command, "--interpolate", 0), "--interpolate")
    assert sorted(p.name for p in workplace.iterdir()) == before
