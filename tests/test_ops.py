"""Convolutions and pools against XLA's own, in every shape and every kind of derivative."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from jaxnets import ops
from jaxnets.ops import patches as matrix_form

EXAMPLES = settings(max_examples=12, deadline=None, derandomize=True, database=None)
RNG = np.random.default_rng(0)


def layout(rank):
    letters = "XYZ"[:rank]
    return f"N{letters}C", f"{letters}IO", f"N{letters}C"


def lax_conv(x, kernel, *, strides, padding, kernel_dilation, groups):
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        strides,
        padding,
        rhs_dilation=kernel_dilation,
        dimension_numbers=layout(x.ndim - 2),
        feature_group_count=groups,
    )


def lax_conv_transpose(x, kernel, *, strides, padding):
    return jax.lax.conv_transpose(x, kernel, strides, padding, dimension_numbers=layout(x.ndim - 2))


@st.composite
def problems(draw):
    """Shapes and options of one convolution, and arrays to go with them."""
    rank = draw(st.integers(1, 3))

    def each(least, most):
        return draw(st.tuples(*[st.integers(least, most)] * rank))

    size, window = each(3, 8 if rank < 3 else 4), each(1, 4 if rank < 3 else 2)
    pads = st.tuples(*[st.tuples(st.integers(0, 3), st.integers(0, 3))] * rank)
    batch, channels, features = draw(st.tuples(*[st.integers(1, 3)] * 3))
    groups = draw(st.sampled_from([1, 1, 1, 2]))
    seed = np.random.default_rng(draw(st.integers(0, 99)))
    return {
        "x": seed.normal(size=(batch, *size, channels * groups)),
        "kernel": seed.normal(size=(*window, channels, features * groups)),
        # Often longer than the window, which leaves phases of a transposed one without a tap.
        "strides": each(1, {1: 5, 2: 3, 3: 2}[rank]),
        "padding": draw(st.one_of(st.sampled_from(["SAME", "VALID"]), pads)),
        "kernel_dilation": each(1, 2),
        "groups": groups,
    }


def with_gradients(f, x, kernel):
    """The value, and both gradients of a weighted sum of it."""

    def weighted(x, kernel):
        y = f(x, kernel)
        return (y * jnp.cos(jnp.arange(y.size)).reshape(y.shape)).sum(), y

    (_, y), gradients = jax.value_and_grad(weighted, (0, 1), has_aux=True)(x, kernel)
    return y, gradients


def has_pixels(f, x, kernel):
    with jax.enable_x64(True):
        return min(jax.eval_shape(f, x, kernel).shape) > 0


def assert_same(ours, theirs, x, kernel):
    with jax.enable_x64(True):
        both = jax.jit(lambda x, k: (with_gradients(ours, x, k), with_gradients(theirs, x, k)))
        got, expected = both(x, kernel)
    assert got[0].dtype == np.float64
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-10), got, expected)


@EXAMPLES
@given(problems())
def test_conv_and_its_gradients_are_those_of_lax(problem):
    x, kernel = problem.pop("x"), problem.pop("kernel")
    partial = functools.partial
    assume(has_pixels(partial(lax_conv, **problem), x, kernel))
    assert_same(partial(ops.conv, **problem), partial(lax_conv, **problem), x, kernel)


@EXAMPLES
@given(problems())
def test_conv_transpose_and_its_gradients_are_those_of_lax(problem):
    options = {name: problem[name] for name in ("strides", "padding")}
    x = problem["x"][..., : problem["kernel"].shape[-2]]
    partial = functools.partial
    assume(has_pixels(partial(lax_conv_transpose, **options), x, problem["kernel"]))
    assert_same(
        partial(ops.conv_transpose, **options),
        partial(lax_conv_transpose, **options),
        x,
        problem["kernel"],
    )


PAIRS = {
    "conv": (
        functools.partial(ops.conv, strides=(2, 1)),
        functools.partial(
            lax_conv, strides=(2, 1), padding="SAME", kernel_dilation=(1, 1), groups=1
        ),
    ),
    "conv_transpose": (
        functools.partial(ops.conv_transpose, strides=(2, 3)),
        functools.partial(lax_conv_transpose, strides=(2, 3), padding="SAME"),
    ),
}
X, KERNEL = RNG.normal(size=(3, 5, 4, 2)), RNG.normal(size=(3, 4, 2, 3))


def assert_close(got, expected, tolerance):
    def check(a, b):
        np.testing.assert_allclose(a, b, atol=tolerance * float(jnp.abs(b).max()), rtol=0)

    jax.tree.map(check, got, expected)


@pytest.mark.parametrize("dtype,tolerance", [(np.float64, 1e-9), (np.float32, 3e-5)])
@pytest.mark.parametrize("name", PAIRS)
def test_every_kind_of_derivative(name, dtype, tolerance):
    """Of matrix products in float64, and of this machine's kernels, if it has any, in float32.

    Among them what R1 needs: the slope, in the kernel, of the squared slope in the image.
    """

    @functools.partial(jax.jit, static_argnums=0)
    def derivatives(f, x, kernel):
        def penalty(f, kernel):
            return (jax.grad(lambda x: jnp.sin(f(x, kernel)).sum())(x) ** 2).sum()

        slope = jax.grad(lambda k: jnp.sin(f(x, k)).sum())
        return (
            jax.grad(functools.partial(penalty, f))(kernel),
            jax.jvp(f, (x, kernel), (jnp.cos(x), jnp.sin(kernel)))[1],
            jax.jvp(slope, (kernel,), (jnp.ones_like(kernel),))[1],
            jax.hessian(lambda k: penalty(f, k * kernel))(dtype(1.0)),
        )

    with jax.enable_x64(dtype == np.float64):
        assert ops.form(dtype) == "patches" or dtype == np.float32
        args = X.astype(dtype), KERNEL.astype(dtype)
        got, expected = (derivatives(f, *args) for f in PAIRS[name])
        assert_close(got, expected, tolerance)


MAPPED = [(axes, np.float32, 3e-5) for axes in ((0, None), (None, 0), (0, 0), (1, 3), (None, 2))]


@pytest.mark.parametrize("axes,dtype,tolerance", [*MAPPED, ((0, 0), np.float64, 1e-9)])
@pytest.mark.parametrize("name", PAIRS)
def test_vmap_over_either_or_both_and_of_gradients(name, axes, dtype, tolerance):
    def stack(a, axis):
        a = a.astype(dtype)
        return a if axis is None else np.stack([a, 2 * a, -a], axis=axis)

    @functools.partial(jax.jit, static_argnums=0)
    def mapped(f, *args):
        def loss(x, k):
            return jnp.sin(f(x, k)).sum()

        def outside(*args):
            return jnp.sin(jax.vmap(f, in_axes=axes)(*args)).sum()

        slopes = jax.vmap(jax.value_and_grad(loss, (0, 1)), in_axes=axes)(*args)
        return slopes, jax.grad(outside, (0, 1))(*args), jax.vmap(f, in_axes=axes)(*args)

    with jax.enable_x64(dtype == np.float64):
        args = stack(X, axes[0]), stack(KERNEL, axes[1])
        got, expected = (mapped(f, *args) for f in PAIRS[name])
        assert_close(got, expected, tolerance)


@pytest.mark.parametrize("batch,chunk", [(12, 4), (7, 1), (8, 8)])
@pytest.mark.parametrize("name", PAIRS)
def test_chunks_change_nothing(name, batch, chunk, monkeypatch):
    ours, theirs = PAIRS[name]
    x = RNG.normal(size=(batch, *X.shape[1:]))
    with jax.enable_x64(True):
        expected = jax.jit(functools.partial(with_gradients, theirs))(x, KERNEL)
        # Room for the patches of five images, or of all eight: 12 divides by 4 and not by 5.
        positions = {"conv": 3 * 4, "conv_transpose": 5 * 4}[name]
        patches = positions * KERNEL[..., 0].size * X.itemsize
        room = 5 if chunk < batch else batch
        monkeypatch.setattr(matrix_form, "_CHUNK_BYTES", room * patches)
        program = jax.make_jaxpr(ours)(x, KERNEL)
        loops = [e.params["length"] for e in program.eqns if e.primitive.name == "scan"]
        assert loops == ([batch // chunk] if chunk < batch else [])
        got = jax.jit(functools.partial(with_gradients, ours))(x, KERNEL)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-11), got, expected)


def test_a_single_image_that_is_too_large_for_a_chunk_is_one(monkeypatch):
    ours, theirs = PAIRS["conv"]
    monkeypatch.setattr(matrix_form, "_CHUNK_BYTES", 1)
    x = X[:1].astype(np.float32)
    kernel = KERNEL.astype(np.float32)
    np.testing.assert_allclose(ours(x, kernel), theirs(x, kernel), atol=1e-5)


def test_ties_share_the_gradient_of_a_maximum():
    slope = jax.grad(lambda x: ops.max_pool(x, (2, 2)).sum())(jnp.ones((1, 4, 4, 1)))
    np.testing.assert_allclose(slope, np.full((1, 4, 4, 1), 0.25))


def test_ties_of_overlapping_windows_go_to_the_first():
    slope = jax.grad(lambda x: ops.max_pool(x, (2, 2), (1, 1)).sum())(jnp.ones((1, 3, 3, 1)))
    np.testing.assert_allclose(slope[0, :, :, 0], [[1, 1, 0], [1, 1, 0], [0, 0, 0]])


@pytest.mark.parametrize("window,strides", [((2, 2), None), ((3, 3), (2, 2))])
def test_a_maximum_keeps_nan(window, strides):
    for place in range(4):
        x = jnp.zeros((1, 4, 4, 1)).at[0, place, place, 0].set(jnp.nan)
        seen = nn.max_pool(x, window, strides or window)
        np.testing.assert_array_equal(ops.max_pool(x, window, strides), seen)


def depthwise_lax(x, weights, factor, up):
    """Filter along both axes of an image by XLA's grouped convolution."""
    rank = x.ndim - 2
    kernel = functools.reduce(np.multiply.outer, [weights] * rank)
    kernel = np.repeat(kernel[..., None, None], x.shape[-1], axis=-1)
    over = len(weights) - factor
    lo, hi = (over + 1) // 2, over // 2
    if up:  # the transpose: flipped, with the padding that makes size * factor
        kernel = np.flip(kernel, range(rank))
        pads = [(len(weights) - 1 - lo, len(weights) - 1 - hi)] * rank
    else:
        pads = [(lo, hi)] * rank
    ones = (1,) * rank
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        ones if up else (factor,) * rank,
        pads,
        lhs_dilation=(factor,) * rank if up else ones,
        dimension_numbers=layout(rank),
        feature_group_count=x.shape[-1],
    )


TAPS = [(1, 3, 3, 1), (1, 1), (1, 2, 1), (0.5, -1, 4, 1, 2, 0.25), (3,)]


@pytest.mark.parametrize("factor", [1, 2, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("shape", [(2, 12, 6, 3), (2, 6, 2)])
@pytest.mark.parametrize("name", ["downsample", "upsample"])
def test_resampling_is_a_depthwise_convolution(name, shape, factor):
    up = name == "upsample"

    def with_slope(resample, x):
        y, pull = jax.vjp(resample, x)
        return y, pull(jnp.cos(jnp.arange(y.size)).reshape(y.shape))

    @jax.jit
    def ours(x):
        return [with_slope(lambda x, t=t: getattr(ops, name)(x, factor, t), x) for t in TAPS]

    @jax.jit
    def theirs(x):
        weights = [np.asarray(t, np.float64) / sum(t) * (factor if up else 1) for t in TAPS]
        return [with_slope(lambda x, w=w: depthwise_lax(x, w, factor, up), x) for w in weights]

    with jax.enable_x64(True):
        x = RNG.normal(size=shape)
        for taps, got, expected in zip(TAPS, ours(x), theirs(x), strict=True):
            for a, b in zip(got, expected, strict=True):
                np.testing.assert_allclose(a, b, atol=1e-12, err_msg=f"taps {taps}")


@pytest.mark.parametrize("window", [(3, 3), (1, 5), (3,)])
@pytest.mark.parametrize("name", ["double_conv", "conv_halve"])
def test_a_convolution_with_resampling_is_both_one_after_the_other(name, window):
    rank = len(window)
    sizes = (6, 5)[:rank]  # an odd one too
    x, kernel = RNG.normal(size=(2, *sizes, 3)), RNG.normal(size=(*window, 3, 4))

    def apart(x, kernel):
        if name == "double_conv":
            for axis in range(rank):
                x = jnp.repeat(x, 2, axis + 1)
        y = jax.lax.conv_general_dilated(
            x, kernel, (1,) * rank, "SAME", dimension_numbers=layout(rank)
        )
        return y if name == "double_conv" else nn.avg_pool(y, (2,) * rank, (2,) * rank)

    @functools.partial(jax.jit, static_argnums=0)
    def with_slopes(function, x, kernel):
        y, pull = jax.vjp(function, x, kernel)
        return y, pull(jnp.cos(jnp.arange(y.size)).reshape(y.shape))

    with jax.enable_x64(True):
        got, expected = (with_slopes(f, x, kernel) for f in (getattr(ops, name), apart))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), got, expected)


def test_a_convolution_with_resampling_needs_a_centre():
    for function in (ops.double_conv, ops.conv_halve):
        with pytest.raises(ValueError, match="odd sizes"):
            function(jnp.zeros((1, 4, 4, 1)), jnp.zeros((2, 3, 1, 1)))


def test_sizes_and_filters_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="divided"):
        ops.downsample(jnp.zeros((1, 5, 4, 1)))
    with pytest.raises(ValueError, match="zero"):
        ops.upsample(jnp.zeros((1, 4, 4, 1)), taps=(1, -1))


@pytest.mark.parametrize("copies", [1, 2])
def test_depthwise_convolutions_are_those_of_lax(copies):
    x, kernel = RNG.normal(size=(2, 7, 6, 3)), RNG.normal(size=(3, 2, 1, 3 * copies))
    options = {"strides": (2, 1), "padding": "SAME", "kernel_dilation": (1, 2), "groups": 3}
    assert ops.form(x.dtype, channels=3, groups=3) == "depthwise"
    partial = functools.partial
    assert_same(partial(ops.conv, **options), partial(lax_conv, **options), x, kernel)
