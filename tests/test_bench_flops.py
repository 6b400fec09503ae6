"""Operations counted by the benchmark against counts by hand."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from experiments.benchmarks import flops
from jaxnets import ops
from jaxnets.devices import parallel


def lax_conv(x, kernel, *, strides=1, dilation=1, groups=1, batch_groups=1, padding="SAME"):
    rank = x.ndim - 2
    letters = "XYZ"[:rank]
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (strides,) * rank,
        padding,
        rhs_dilation=(dilation,) * rank,
        feature_group_count=groups,
        batch_group_count=batch_groups,
        dimension_numbers=(f"N{letters}C", f"{letters}IO", f"N{letters}C"),
    )


def like(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


#: x, kernel, options, and the operations by hand: 2 x images x pairs of an output and a tap that
#: reads a pixel x C_in / groups x C_out. A window of 3 over 8 pixels: 8 x 3, less one at each end.
LAYERS = {
    "plain": ((2, 8, 8, 3), (3, 3, 3, 5), {}, 2 * 2 * 22**2 * 3 * 5),
    # Padded by one and two, outputs read -1..2, 2..5 and 5..8.
    "strided, odd": ((2, 7, 7, 3), (4, 4, 3, 5), {"strides": 3}, 2 * 2 * 9**2 * 3 * 5),
    # Outputs at 0, 2, 4, 6, 8 read two to either side.
    "both": (
        (2, 9, 9, 3),
        (3, 3, 3, 5),
        {"dilation": 2, "strides": 2},
        2 * 2 * 13**2 * 3 * 5,
    ),
    "grouped": ((2, 8, 8, 6), (3, 3, 2, 9), {"groups": 3}, 2 * 2 * 22**2 * 2 * 9),
    "depthwise, strided": (
        (2, 8, 8, 6),
        (3, 3, 1, 6),
        {"groups": 6, "strides": 2},
        2 * 2 * 11**2 * 6,
    ),
    "batch groups": ((4, 8, 8, 3), (3, 3, 3, 6), {"batch_groups": 2}, 2 * 2 * 22**2 * 3 * 6),
    "three axes": ((2, 4, 4, 4, 3), (3, 3, 3, 3, 5), {}, 2 * 2 * 10**3 * 3 * 5),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_and_each_of_its_gradients_cost_the_same(name):
    x, kernel, options, expected = LAYERS[name]
    layer = functools.partial(lax_conv, **options)
    assert flops.count(layer, like(*x), like(*kernel)) == flops.Flops(convolutions=expected)
    y = jax.eval_shape(layer, like(*x), like(*kernel))

    def slope(which, x, kernel, y):
        return jax.vjp(layer, x, kernel)[1](y)[which]

    for which in (0, 1):
        got = flops.count(functools.partial(slope, which), like(*x), like(*kernel), y)
        assert got == flops.Flops(convolutions=expected)


def test_a_transposed_layer_multiplies_no_zeros():
    x, kernel = like(2, 5, 5, 3), like(4, 4, 3, 6)
    # Each pixel meets each tap once, but for one tap at either end that falls off the image.
    expected = flops.Flops(convolutions=2 * 2 * 18**2 * 3 * 6)
    layer = functools.partial(ops.conv_transpose, strides=(2, 2))
    assert flops.count(layer, x, kernel) == expected

    def slope(which, x, kernel):
        return jax.grad(lambda *both: (layer(*both) ** 2).sum(), which)(x, kernel)

    for which in (0, 1):  # the square needs the layer's value too
        assert flops.count(functools.partial(slope, which), x, kernel) == expected * 2


def test_products_of_matrices():
    assert flops.count(jnp.matmul, like(4, 5), like(5, 6)).products == 2 * 4 * 5 * 6
    batched = functools.partial(jnp.einsum, "bikc,bkcj->bij")
    assert flops.count(batched, like(2, 3, 4, 5), like(2, 4, 5, 6)).products == 2 * 2 * 3 * 20 * 6


PRODUCT = 2 * 4 * 4 * 4


def square(x):
    return x @ x


@jax.custom_vjp
def custom(x):
    return square(x)


custom.defvjp(lambda x: (square(x), x), lambda x, y: (y @ x + x @ y,))


PROGRAMS = {
    "scans in scans": (
        lambda x: jax.lax.fori_loop(
            0, 3, lambda _, c: jax.lax.fori_loop(0, 5, lambda _, d: square(d), c), x
        ),
        15,
    ),
    "the dearer branch": (
        lambda x: jax.lax.cond(x[0, 0] > 0, lambda x: square(square(x)), square, x),
        2,
    ),
    "a checkpoint computes its value again": (
        jax.grad(lambda x: (jax.checkpoint(lambda x: jnp.sin(square(x)))(x) ** 2).sum()),
        4,
    ),
    "gradient of a custom_vjp": (jax.grad(lambda x: (custom(x) ** 2).sum()), 3),
    "what is not used, in a scan": (
        lambda x: jax.lax.scan(lambda c, _: ((c[0] + 1, square(c[1])), None), (x, x), None, 3)[0][
            0
        ],
        0,
    ),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_within_programs(name):
    program, products = PROGRAMS[name]
    assert flops.count(program, like(4, 4)) == flops.Flops(products=products * PRODUCT)


def test_an_open_loop_counts_once_and_is_told():
    def program(x):
        return jax.lax.while_loop(lambda x: x.sum() < 9, square, x)

    assert flops.count(program, like(4, 4)) == flops.Flops(products=PRODUCT, open_loops=1)


def test_a_shard_map_counts_on_all_devices():
    mesh = parallel.make_mesh(4)
    rows = PartitionSpec("data")
    program = jax.shard_map(
        lambda a, b: a @ b, mesh=mesh, in_specs=(rows, PartitionSpec()), out_specs=rows
    )
    assert flops.count(program, like(8, 3), like(3, 5)).products == 2 * 8 * 3 * 5


def test_our_convolutions_count_as_plain_ones_and_leave_no_trace():
    def program(x, kernel):
        return ops.conv(x, kernel, strides=(2, 2))

    arguments = like(64, 28, 28, 32), like(3, 3, 32, 32)
    before = str(jax.make_jaxpr(program)(*arguments))
    assert "conv_general_dilated" not in before
    assert flops.count(program, *arguments).convolutions == 2 * 64 * 41**2 * 32 * 32
    assert str(jax.make_jaxpr(program)(*arguments)) == before
