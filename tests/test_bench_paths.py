"""Which code convolutions run in, read from real compiled programs; and that ours run in none."""

import functools

import jax
import jax.numpy as jnp
import pytest

from experiments.benchmarks import cases, paths
from jaxnets import losses, models, ops
from jaxnets.commands import common, generate
from jaxnets.commands.configs import generate as gan_config
from jaxnets.devices import parallel
from jaxnets.ops import native
from jaxnets.run.task import Lazily, take_feed

LIBRARY, NEST = "library call", "loop nest"

#: Newer versions of XLA:CPU put a convolution that no library takes into a fusion, always, and
#: compute it for each element there: as slow as a loop nest, and told of as that is.
FUSES = tuple(map(int, jax.__version__.split(".")[:2])) >= (0, 11)
FUSED = "fused kernel", "computed for each element of a fusion"


def like(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def conv(x, kernel, strides=1, **options):
    rank = x.ndim - 2
    letters = "XYZ"[:rank]
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (strides,) * rank,
        "SAME",
        dimension_numbers=(f"N{letters}C", f"{letters}IO", f"N{letters}C"),
        **options,
    )


def slope(layer, which):
    """The gradient in the input (0) or the kernel (1)."""
    return lambda x, kernel, y: jax.vjp(layer, x, kernel)[1](y)[which]


def looped(function):
    """Three times in a scan, on arrays that differ each time."""

    def loop(*arguments):
        def body(count, _):
            return count + 1, function(*(each + count for each in arguments))

        return jax.lax.scan(body, jnp.zeros((), arguments[0].dtype), None, 3)[1]

    return loop


def transposed(x, kernel):
    return jax.lax.conv_transpose(
        x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def compiled_text(function, *arguments):
    return jax.jit(function).lower(*arguments).compile().as_text()


# Nothing here is run, so sizes cost nothing; smaller ones go to Eigen where these go to YNN.
X, KERNEL, Y = like(32, 14, 14, 64), like(3, 3, 64, 64), like(32, 14, 14, 64)
GROUPED = functools.partial(conv, feature_group_count=4)
#: What was found by dumping the kernels that XLA writes (see `paths`): program, arguments, path,
#: reason, runs.
CONVOLUTIONS = {
    "forward": (conv, (X, KERNEL), LIBRARY, "YNN", 1),
    "gradient in the input": (slope(conv, 0), (X, KERNEL, Y), LIBRARY, "YNN", 1),
    "gradient in the kernel": (slope(conv, 1), (X, KERNEL, Y), LIBRARY, "YNN", 1),
    "forward in a loop": (looped(conv), (X, KERNEL), LIBRARY, "YNN", 3),
    "gradient in the input in a loop": (
        looped(slope(conv, 0)),
        (X, KERNEL, Y),
        NEST,
        "layout b01f_01oi->b01f, in a loop",
        3,
    ),
    "gradient in the kernel in a loop": (
        looped(slope(conv, 1)),
        (X, KERNEL, Y),
        NEST,
        "layout f01b_i01o->01bf, in a loop",
        3,
    ),
    "gradient in the input of a strided one": (
        slope(functools.partial(conv, strides=2), 0),
        (X, KERNEL, like(32, 7, 7, 64)),
        LIBRARY,
        "Eigen",
        1,
    ),
    "gradient in the kernel of a grouped one": (
        slope(GROUPED, 1),
        (X, like(3, 3, 16, 64), Y),
        NEST,
        "dilation over three axes",
        1,
    ),
    "transposed": (transposed, (X, like(4, 4, 64, 64)), LIBRARY, "Eigen", 1),
    "gradient in the kernel of a transposed one": (
        slope(transposed, 1),
        (X, like(4, 4, 64, 64), like(32, 28, 28, 64)),
        NEST,
        "reversed window",
        1,
    ),
    "three axes": (conv, (like(2, 5, 5, 5, 4), like(3, 3, 3, 4, 4)), LIBRARY, "Eigen", 1),
    "four axes": (
        lambda x, kernel: jax.lax.conv(x, kernel, (1,) * 4, "SAME"),
        (like(2, 2, 5, 5, 5, 5), like(2, 2, 3, 3, 3, 3)),
        NEST,
        "4 spatial axes",
        1,
    ),
    "integers": (
        conv,
        (like(2, 8, 8, 2, dtype=jnp.int32), like(3, 3, 2, 2, dtype=jnp.int32)),
        NEST,
        "no library code for s32",
        1,
    ),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_where_xla_runs_a_convolution(name):
    program, arguments, path, reason, times = CONVOLUTIONS[name]
    text = compiled_text(program, *arguments)
    (found,) = paths.operations(text)
    got = (found.kind, found.path, found.reason, found.times)
    if FUSES and path == NEST and found.path == FUSED[0]:
        path, reason = FUSED
    assert got == ("convolution", path, reason, times)
    assert [each.reason for each in paths.loop_nests(text)] == [reason] * (path != LIBRARY)


def test_our_convolutions_are_library_calls(monkeypatch):
    """In a loop and differentiated, where XLA's own would be loop nests."""
    for of, kind in ((native.available, "convolution"), (lambda: False, "dot")):
        monkeypatch.setattr(native, "available", of)
        if kind == "convolution" and not of():
            continue  # no compiler on this machine
        text = compiled_text(looped(slope(lambda *a: ops.conv(*a), 1)), X, KERNEL, Y)
        found = paths.operations(text)
        assert {(each.kind, each.path) for each in found} == {(kind, LIBRARY)}
    with ops.plain_convolutions():
        text = compiled_text(looped(slope(lambda *a: ops.conv(*a), 1)), X, KERNEL, Y)
    assert [each.times for each in paths.loop_nests(text)] == [3]


def test_what_no_library_took_is_a_loop_nest_on_a_gpu_and_the_matrix_unit_on_a_tpu():
    text = compiled_text(slope(transposed, 1), X, like(4, 4, 64, 64), like(32, 28, 28, 64))
    reason = FUSED[1] if FUSES else "no library was found for it"
    assert [op.reason for op in paths.loop_nests(text, "gpu")] == [reason]
    assert not paths.loop_nests(text, "tpu")


#: Machine code is not optimised, which takes a sixth of the time; what runs in a library is decided
#: before there is any.
ONLY_TO_LOOK_AT: dict[str, int | bool] = {"xla_backend_optimization_level": 0}
if not FUSES:
    ONLY_TO_LOOK_AT["xla_cpu_use_fusion_emitters"] = False

#: Strided convolutions, transposed ones and grouped ones, which are differentiated twice: these
#: stand for the rest, which run with the slow tests.
QUICK = {"resnet_3x2", "dcgan r1", "r3gan r1"}
STEPS = [
    *(
        pytest.param(
            cases.ClassifierCase(
                network=name,
                batch_size=8,
                image_size=max(8, spec.min_size),
                width=0.1,
            ),
            id=name,
            marks=[pytest.mark.slow] * (name not in QUICK),
        )
        for name, spec in models.CLASSIFIERS.items()
    ),
    *(
        pytest.param(
            cases.GanCase(
                family=family,
                penalty=penalty,
                batch_size=8,
                image_size=8,
                width=0.1,
                conditional=True,
            ),
            id=f"{family} {penalty}",
            marks=[pytest.mark.slow] * (f"{family} {penalty}" not in QUICK),
        )
        for family in models.GENERATORS
        for penalty in ("none", *losses.PENALTIES)
    ),
]


@pytest.mark.parametrize("case", STEPS)
def test_no_convolution_of_a_shipped_step_is_a_loop_nest(case):
    work, state = cases.abstract(case)
    program = parallel.compile_step(work.step, parallel.make_mesh(1))
    lowered = program.lower(state, work.batch)
    text = lowered.compile(compiler_options=ONLY_TO_LOOK_AT).as_text()
    found = paths.operations(text)
    assert found
    assert not paths.loop_nests(text)


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        {"generator": "stylegan2", "path_length_weight": 2.0, "penalty_every": 2},
        {
            "generator": "sngan",
            "conditioning": "auxiliary",
            "augment": "color,translation,shift,cutout,flip",
            "adaptive_augment": True,
            "lecam_weight": 0.1,
            "matching_weight": 1.0,
            "discriminator_steps": 2,
            "generator_attention": (1,),
            "discriminator_attention": (1,),
        },
    ],
    ids=lambda flags: flags["generator"],
)
def test_nor_is_one_of_what_a_gan_can_be_told_besides(flags):
    config = gan_config.resolve(
        gan_config.Generate(data="digits", preset="", width=0.1, batch_size=8, **flags)
    )
    mesh = parallel.make_mesh(1)
    task = generate.build(config, common.load_data(config, config.data), mesh).task
    # A whole period in one call, so that penalties of some steps only are among them.
    step = task.step.steps(0, 2) if isinstance(task.step, Lazily) else task.step
    program = parallel.compile_step(step, mesh, steps_per_call=2, fetch=task.pipeline.fetch)
    feed = take_feed(task.pipeline, 0, 2)
    lowered = program.lower(jax.eval_shape(task.init), feed, task.pipeline.source)
    text = lowered.compile(compiler_options=ONLY_TO_LOOK_AT).as_text()
    assert paths.operations(text)
    assert not paths.loop_nests(text)
