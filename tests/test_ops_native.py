"""The kernels compiled for this machine, against XLA's convolution in float64."""

import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from jaxnets import ops
from jaxnets.ops import bilinear, native

pytestmark = pytest.mark.skipif(not native.available(), reason=f"no kernels: {native.why_not()}")

EXAMPLES = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
CHANNELS = st.sampled_from([1, 2, 3, 5, 8, 16, 17, 32, 48])


def reference(name, a, b, geometry):
    """XLA's own convolution, or its transpose, in float64."""
    with jax.enable_x64(True):
        f = getattr(bilinear, f"_lax_{name}")
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        return np.asarray(jax.jit(functools.partial(f, geometry=geometry))(a, b))


def assert_close(got, expected):
    assert got.dtype == np.float32 and got.shape == expected.shape
    scale = max(1.0, np.abs(expected).max(initial=0))
    np.testing.assert_allclose(got, expected, atol=4e-6 * scale)


@st.composite
def problems(draw):
    rank = draw(st.integers(1, 3))

    def each(least, most):
        return draw(st.tuples(*[st.integers(least, most)] * rank))

    size, window = each(1, {1: 40, 2: 12, 3: 5}[rank]), each(1, {1: 6, 2: 4, 3: 2}[rank])
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    channels = draw(CHANNELS) * groups, draw(CHANNELS) * groups
    if draw(st.integers(0, 3)) == 0:  # depthwise
        groups = draw(st.sampled_from([2, 7, 8, 20, 48, 56]))
        channels = groups, groups
    geometry = {
        "window": window,
        "strides": each(1, 3),
        "before": each(-1, 3),
        "dilation": each(1, 2),
        "groups": groups,
    }
    return {
        "inputs": size,
        "after": each(-1, 3),
        "batch": draw(st.sampled_from([1, 2, 5, 33])),
        "channels": channels,
        **geometry,
    }


def compare(inputs, outputs, batch, channels, seed=0, **geometry):
    geometry = bilinear.Geometry(tuple(inputs), tuple(outputs), **geometry)
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return rng.normal(size=shape).astype(np.float32)

    x = normal(batch, *inputs, channels[0])
    kernel = normal(*geometry.window, channels[0] // geometry.groups, channels[1])
    slope = normal(batch, *outputs, channels[1])
    for name, a, b in [
        ("conv", x, kernel),
        ("input_gradient", slope, kernel),
        ("kernel_gradient", x, slope),
    ]:
        got = np.asarray(getattr(bilinear, name)(a, b, geometry))
        assert_close(got, reference(name, a, b, geometry))


@EXAMPLES
@given(problems())
def test_all_three_maps_are_those_of_xla(problem):
    outputs = []
    after = problem.pop("after")
    for n, lo, hi, w, d, s in zip(
        problem["inputs"],
        problem["before"],
        after,
        problem["window"],
        problem["dilation"],
        problem["strides"],
        strict=True,
    ):
        assume(n + min(lo, 0) + min(hi, 0) > 0)
        outputs.append((n + lo + hi - (w - 1) * d - 1) // s + 1)
    assume(min(outputs) > 0)
    compare(outputs=outputs, **problem)


@pytest.mark.parametrize(
    "groups,channels,size",
    [
        (2, (32, 32), (14, 14)),
        (3, (48, 96), (5, 7)),
        (2, (64, 96), (5, 7)),
        pytest.param(5, (160, 240), (5, 7), marks=pytest.mark.slow),
        pytest.param(11, (352, 176), (5, 7), marks=pytest.mark.slow),
        pytest.param(11, (352, 176), (14, 14), marks=pytest.mark.slow),
    ],
)
def test_tiles_of_groups(groups, channels, size):
    """Groups for Winograd's algorithm: one and more vectors of channels, bundles that are full."""
    compare(
        size,
        size,
        batch=5,
        channels=channels,
        window=(3, 3),
        strides=(1, 1),
        before=(1, 1),
        dilation=(1, 1),
        groups=groups,
    )


@pytest.mark.parametrize("channels", [5, 24, 52])
@pytest.mark.parametrize("window,stride", [(3, 1), (3, 2), (5, 1), (5, 2), (9, 3)])
def test_depthwise(window, stride, channels):
    """Fewer channels than a vector, blocks and a rest; windows that hang over on every side."""
    before = (window // 2, window // 2 - (stride > 1))
    compare(
        (17, 30),
        (-(-17 // stride), -(-30 // stride)),
        batch=2,
        channels=(channels, channels),
        window=(window, window),
        strides=(stride, stride),
        before=before,
        dilation=(1, 1),
        groups=channels,
    )


@pytest.mark.parametrize("size", [(3, 3), (7, 7), (8, 6), (14, 5), (28, 28)])
@pytest.mark.parametrize("before", [(1, 1), (0, 2), (-1, 1)])
def test_tiles_that_hang_over_the_edge(size, before):
    """The 3x3 kernels with stride 1 that Winograd's algorithm takes."""
    outputs = [n + 2 * b - 2 if b > 0 else n + b for n, b in zip(size, before, strict=True)]
    compare(
        size,
        [max(1, o) for o in outputs],
        batch=3,
        channels=(32, 48),
        window=(3, 3),
        strides=(1, 1),
        before=before,
        dilation=(1, 1),
    )


@pytest.mark.parametrize("act", [None, jax.nn.relu, jax.nn.relu6, jax.nn.gelu])
@pytest.mark.parametrize(
    "channels,window,groups",
    [((24, 40), 1, 1), ((32, 48), 3, 1), ((36, 36), 3, 36), ((32, 2), 2, 2)],
)
def test_an_ending_is_what_it_is_apart(act, channels, window, groups):
    """Values, NaN, derivatives, also under vmap, in each of the kernels."""
    shapes = (window, window, channels[0] // groups, channels[1]), channels[1:], channels[1:]
    x, add = (RNG.normal(size=(3, 8, 6, count)).astype(np.float32) for count in channels)
    arrays = [RNG.normal(size=shape).astype(np.float32) for shape in shapes]

    def apart(kernel, scale, shift, x, add=None):
        return ops.Ending(scale, shift, add, act)(ops.conv(x, kernel, groups=groups))

    def together(kernel, scale, shift, x, add=None):
        ending = ops.Ending(scale, shift, add, act)
        return ops.conv(x, kernel, groups=groups, ending=ending)

    hidden = x.copy()
    hidden[0, 2, 2] = np.nan
    fused = "ffi_call" in str(jax.make_jaxpr(together)(*arrays, x))
    assert fused == (act is not jax.nn.gelu)
    for args in [(*arrays, x), (*arrays, x, add), (*arrays, hidden)]:
        assert_close(np.asarray(together(*args)), np.asarray(apart(*args)))
    members = np.stack([arrays[0], -arrays[0]]), *arrays[1:], x, add
    got, expected = (
        (
            jax.vmap(f, (0, *[None] * 4))(*members),
            jax.grad(lambda *a, f=f: jnp.sin(f(*a)).sum(), range(4))(*arrays, x, add),
        )
        for f in (together, apart)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-4), got, expected)


def test_more_channels_and_images_than_a_block_holds():
    compare(
        (6, 6), (3, 3), 70, (40, 70), window=(4, 4), strides=(2, 2), before=(1, 1), dilation=(1, 1)
    )


@pytest.mark.parametrize("batch", [0, 3])
def test_nothing_in_gives_nothing_or_zeros(batch):
    x, kernel = jnp.zeros((batch, 5, 5, 3)), jnp.ones((3, 3, 3, 4))
    y, vjp = jax.vjp(ops.conv, x, kernel)
    assert y.shape == (batch, 5, 5, 4)
    dx, dk = vjp(y)
    assert dx.shape == x.shape and dk.shape == kernel.shape
    assert not np.any(dk)


OURS = {
    "conv": functools.partial(ops.conv, strides=(2, 1)),
    "conv_transpose": functools.partial(ops.conv_transpose, strides=(2, 3)),
}
RNG = np.random.default_rng(1)
X = RNG.normal(size=(3, 6, 5, 4)).astype(np.float32)
KERNEL = RNG.normal(size=(3, 4, 4, 5)).astype(np.float32)


def uses_kernels(f, *args):
    return "jaxnets_conv" in str(jax.make_jaxpr(lambda *args: f(*args))(*args))  # not cached


def test_the_same_bits_every_time():
    x = RNG.normal(size=(64, 14, 14, 32)).astype(np.float32)
    kernel = RNG.normal(size=(3, 3, 32, 32)).astype(np.float32)
    f = jax.jit(jax.grad(lambda x, k: jnp.sin(ops.conv(x, k)).sum(), (0, 1)))
    first = f(x, kernel)
    for _ in range(5):
        jax.tree.map(np.testing.assert_array_equal, f(x, kernel), first)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_computed_in_float32(dtype):
    x, kernel = jnp.asarray(X, dtype), jnp.asarray(KERNEL, dtype)
    got = OURS["conv"](x, kernel)
    expected = OURS["conv"](x.astype(jnp.float32), kernel.astype(jnp.float32)).astype(dtype)
    assert got.dtype == dtype
    np.testing.assert_array_equal(got.astype(jnp.float32), expected.astype(jnp.float32))


def test_xla_is_used_on_demand():
    assert uses_kernels(OURS["conv"], X, KERNEL) and uses_kernels(OURS["conv_transpose"], X, KERNEL)
    with ops.plain_convolutions():
        assert not uses_kernels(OURS["conv"], X, KERNEL)
        assert not uses_kernels(OURS["conv_transpose"], X, KERNEL)


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """The question whether there are kernels, asked anew; answers are not kept."""
    monkeypatch.setattr(native, "_register", lambda library: None)
    monkeypatch.setattr(native, "SOURCE", tmp_path / "convolution.cc")
    monkeypatch.setenv("JAXNETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "convolution.cc").write_text("int main() { return 0; }\n")
    native.why_not.cache_clear()
    yield tmp_path
    monkeypatch.undo()
    native.why_not.cache_clear()


def test_the_library_is_built_once_and_found_again(fresh, monkeypatch):
    assert native.why_not() is None
    (library,) = (fresh / "__pycache__").glob("*.so")
    native.why_not.cache_clear()
    monkeypatch.setenv("CXX", "/nowhere/to/be/found")
    assert native.why_not() is None
    (fresh / "convolution.cc").write_text("int main() { return 1; }\n")  # another library
    native.why_not.cache_clear()
    assert "nowhere" in native.why_not()
    assert list((fresh / "__pycache__").iterdir()) == [library]


def test_source_that_does_not_compile_is_told(fresh, caplog):
    (fresh / "convolution.cc").write_text("this is not C++\n")
    with caplog.at_level(logging.WARNING):
        assert "error" in native.why_not()
    assert "matrix products" in caplog.text
    assert not list((fresh / "__pycache__").iterdir())


def test_a_warning_of_the_compiler_is_logged_and_the_library_used(fresh, caplog):
    (fresh / "convolution.cc").write_text("int narrow(long wide) { return wide; }\n")
    with caplog.at_level(logging.INFO):
        assert native.why_not() is None
    assert "-Wconversion" in caplog.text


def test_without_a_compiler_matrix_products_are_used(fresh, monkeypatch, caplog):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(native.shutil, "which", lambda name: None)
    with caplog.at_level(logging.WARNING):
        assert ops.form(jnp.float32) == "patches"
        ops.form(jnp.float32)
    assert caplog.text.count("no C++ compiler") == 1
    assert not uses_kernels(OURS["conv"], X, KERNEL)


def test_they_can_be_turned_off(fresh, monkeypatch, caplog):
    monkeypatch.setenv("JAXNETS_NATIVE", "0")
    assert ops.form(jnp.float32) == "patches"
    assert "JAXNETS_NATIVE=0" in native.why_not()
    assert not caplog.text


def test_a_folder_that_cannot_be_written_is_passed_over(fresh, monkeypatch):
    (fresh / "__pycache__").write_text("in the way")
    assert native.why_not() is None
    assert list((fresh / "cache" / "native").glob("*.so"))
