"""Layers and pools against flax's of the same fields: parameters, results and gradients."""

import itertools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import ops
from jaxnets.nn import layers

KEY = jax.random.key(0)

PADDINGS = ["SAME", "VALID", 1, (2,), ((0, 3),)]
SPACINGS = [
    {},
    {"kernel_size": (2,), "strides": 2},
    {"kernel_size": (4,), "strides": (3,), "kernel_dilation": (2,)},
]


def named(cases):
    return {f"{fields} of {shape}": (shape, fields) for shape, fields in cases}


#: Cases of one group are compiled together. A layer has five features unless its case says so.
CONV = {
    **{
        f"padding {padding}": named(
            ((2, 7, 4), {"kernel_size": 3, "padding": padding, **spacing}) for spacing in SPACINGS
        )
        for padding in PADDINGS
    },
    "batch axes": named(
        ((*batch, *(5, 4, 3)[:rank], 2), {"kernel_size": (3, 2, 1)[:rank]})
        for batch, rank in itertools.product([(), (2,), (2, 3), (1, 2, 2)], [1, 2, 3])
    ),
    "several axes": named(
        [
            ((2, 7, 6, 4), {"kernel_size": (3, 2), "padding": (1, (0, 2)), "strides": (2, 1)}),
            ((7, 6, 4), {"kernel_size": (2, 3), "kernel_dilation": (2, 1)}),
            ((1, 5, 4, 3, 2), {"kernel_size": (3, 2, 1), "padding": 1, "strides": 2}),
        ]
    ),
    "groups": named(
        [
            ((2, 7, 4), {"kernel_size": 3, "feature_group_count": 2, "features": 6}),
            ((2, 6, 5, 4), {"kernel_size": (3, 3), "feature_group_count": 4, "features": 8}),
            ((7, 4), {"kernel_size": 3, "feature_group_count": 4, "features": 4, "strides": None}),
            ((2, 7, 4), {"kernel_size": 3, "use_bias": False}),
        ]
    ),
}
TRANSPOSED = {
    **{
        f"padding {padding}": named(
            ((2, 5, 3), {"kernel_size": 3, "padding": padding, **spacing})
            for spacing in (
                {},
                {"kernel_size": (4,), "strides": (2,)},
                {"kernel_size": (2,), "strides": (3,)},
            )
        )
        for padding in PADDINGS
    },
    "batch axes": named(
        ((*batch, *(4, 3, 2)[:rank], 2), {"kernel_size": (3, 2, 2)[:rank], "strides": (2,) * rank})
        for batch, rank in itertools.product([(), (2, 3)], [1, 2, 3])
    ),
}
DENSE = {
    "all": named(
        ((*batch, 4), {"use_bias": use_bias})
        for batch, use_bias in itertools.product([(), (3,), (2, 3)], [True, False])
    )
}
GROUPS = [
    pytest.param(kind, cases, id=f"{kind} {name}")
    for kind, groups in {"Conv": CONV, "ConvTranspose": TRANSPOSED, "Dense": DENSE}.items()
    for name, cases in groups.items()
]


def random(shapes, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), shapes)


def with_gradients(f, *args):
    """The value, and the gradient of a weighted sum of it in every argument."""
    y, pull = jax.vjp(f, *args)
    return y, pull(jnp.cos(jnp.arange(y.size)).reshape(y.shape).astype(y.dtype))


def compare(kind, cases, tolerance=1e-4, dtype=jnp.float32):
    """Asserts that our layer and flax's of one kind agree in every case."""
    pairs, args = {}, {}
    for name, (shape, fields) in cases.items():
        x = random(jax.ShapeDtypeStruct(shape, dtype), seed=1)
        pair = [getattr(home, kind)(**{"features": 5, **fields}) for home in (layers, nn)]
        ours, theirs = (jax.eval_shape(layer.init, KEY, x) for layer in pair)
        assert ours == theirs
        pairs[name], args[name] = pair, (random(ours), x)

    def run(args):
        return {
            name: [with_gradients(layer.apply, *args[name]) for layer in pair]
            for name, pair in pairs.items()
        }

    for name, (actual, expected) in jax.jit(run)(args).items():
        chex.assert_trees_all_equal_shapes_and_dtypes(actual, expected)
        for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
            a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance, err_msg=name)


@pytest.mark.parametrize(("kind", "cases"), GROUPS)
def test_layers_are_interchangeable_with_those_of_flax(kind, cases):
    compare(kind, cases)


TYPES = [{}, {"dtype": jnp.bfloat16}, {"dtype": jnp.float16}]


@pytest.mark.parametrize("kind", ["Conv", "ConvTranspose", "Dense"])
def test_types_are_those_of_flax(kind):
    window = {} if kind == "Dense" else {"kernel_size": 3}
    cases = named(((2, 6, 4), {**window, **types}) for types in TYPES)
    compare(kind, cases, 0.1, jnp.bfloat16)


@pytest.mark.parametrize("kind", ["Conv", "ConvTranspose", "Dense"])
def test_layers_start_as_those_of_flax(kind):
    fields = {"features": 3} if kind == "Dense" else {"features": 3, "kernel_size": (3, 3)}
    x = jnp.ones((1, 4, 4, 2))
    ours, theirs = (getattr(home, kind)(**fields).init(KEY, x) for home in (layers, nn))
    chex.assert_trees_all_equal(ours, theirs)


POOLS = [
    ((2, 6, 8, 3), (2, 2), None, "VALID"),
    ((2, 7, 5, 3), (2, 2), None, "VALID"),  # a row and a column fill no window
    ((2, 7, 8, 1), (3, 2), (3, 2), "VALID"),
    ((2, 7, 8, 2), (3, 3), (2, 2), "VALID"),  # overlapping
    ((2, 7, 8, 2), (2, 2), (3, 3), "VALID"),  # with gaps
    ((2, 7, 5, 2), (2, 2), None, "SAME"),
    ((2, 7, 5, 2), (3, 3), (2, 2), "SAME"),
    ((2, 7, 5, 2), (3, 3), (2, 1), ((1, 0), (2, 1))),
    ((3, 9, 2), (4,), None, "VALID"),
    ((9, 2), (4,), (2,), "SAME"),
    ((2, 3, 9, 2), (3,), None, "VALID"),
    ((6, 4, 2), (2, 2), None, "VALID"),
    ((2, 4, 5, 6, 2), (2, 2, 3), None, "VALID"),
]


@pytest.mark.parametrize("name", ["max_pool", "avg_pool"])
def test_pools_are_those_of_flax(name):
    # A permutation has no ties, at which the two choose different subgradients. All of it is below
    # 0: a border of zeros would be the maximum.
    rng = np.random.default_rng(0)
    inputs = [
        -(rng.permutation(np.prod(shape)) + 1).reshape(shape).astype(np.float32) / 10
        for shape, *_ in POOLS
    ]

    def run(inputs):
        both = []
        for x, (_, window, strides, padding) in zip(inputs, POOLS, strict=True):
            ours = with_gradients(lambda x, o=(window, strides, padding): pool(x, *o), x)
            o = (window, strides or window, padding)
            both.append((ours, with_gradients(lambda x, o=o: getattr(nn, name)(x, *o), x)))
        return both

    pool = getattr(ops, name)
    for case, (actual, expected) in zip(POOLS, jax.jit(run)(inputs), strict=True):
        chex.assert_trees_all_close(
            actual, expected, rtol=1e-5, atol=1e-6, custom_message=str(case)
        )


@pytest.mark.parametrize("pool", [ops.max_pool, ops.avg_pool])
def test_one_number_is_the_window_of_one_axis(pool):
    x = random(jnp.zeros((2, 9, 3)))
    np.testing.assert_array_equal(pool(x, 3, 2), pool(x, (3,), (2,)))


UNFIT = {
    "too few axes": ("Conv", {"kernel_size": (3, 3)}, (4, 2), r"at least 3 axes .* shape \(4, 2\)"),
    "groups": (
        "Conv",
        {"kernel_size": 3, "feature_group_count": 2},
        (1, 4, 3),
        "3 input and 5 output channels do not divide into 2",
    ),
    "a name": ("Conv", {"kernel_size": 3, "padding": "FULL"}, (1, 4, 3), "unknown padding 'FULL'"),
    "too many numbers": (
        "Conv",
        {"kernel_size": 3, "padding": (1, 1)},
        (1, 4, 3),
        r"each of 1 spatial axes, got \(1, 1\)",
    ),
}


@pytest.mark.parametrize(("kind", "fields", "shape", "message"), UNFIT.values(), ids=UNFIT)
def test_what_does_not_fit_is_refused_in_one_sentence(kind, fields, shape, message):
    with pytest.raises(ValueError, match=message):
        getattr(layers, kind)(5, **fields).init(KEY, jnp.ones(shape))
