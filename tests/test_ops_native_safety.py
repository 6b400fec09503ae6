"""The native kernels refuse what does not fit, and report when memory runs out."""

import re
import subprocess
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxnets.ops import native
from jaxnets.ops.bilinear import Geometry

pytestmark = pytest.mark.skipif(not native.available(), reason=f"no kernels: {native.why_not()}")

IMAGES, SLOPES, KERNEL = (2, 6, 5, 4), (2, 3, 5, 6), (3, 3, 2, 6)
GEOMETRY = Geometry((6, 5), (3, 5), (3, 3), (2, 1), (1, 1), (1, 1), groups=2).numbers(2, 4, 6)
SHAPES = {
    "jaxnets_conv": (IMAGES, KERNEL, SLOPES),
    "jaxnets_conv_input_gradient": (SLOPES, KERNEL, IMAGES),
    "jaxnets_conv_kernel_gradient": (IMAGES, SLOPES, KERNEL),
}
TARGETS = pytest.mark.parametrize("target", SHAPES)


def call(target, shapes=None, geometry=GEOMETRY, dtype=np.float32):
    *args, out = shapes or SHAPES[target]
    kernel = jax.ffi.ffi_call(target, jax.ShapeDtypeStruct(out, np.float32))
    return np.asarray(kernel(*(np.ones(shape, dtype) for shape in args), geometry=geometry))


def changed(numbers):
    """The geometry with other numbers at some of its 22 places."""
    geometry = GEOMETRY.copy()
    geometry[list(numbers)] = list(numbers.values())
    return geometry


@TARGETS
@pytest.mark.parametrize(
    "geometry,message",
    [
        (GEOMETRY[:-1], "22 numbers, not 21"),
        (changed({0: -1}), "batch size is -1, outside 0..2147483647"),
        (changed({0: 3}), r"shape \[2, .*\], but its geometry asks for \[3, "),
        (changed({1: 0}), "number of groups is 0, outside 1.."),
        (changed({1: 4}), "6 channels cannot be divided into 4 groups"),
        (changed({6: 6}), r"input has the shape .*2, 6, 5, 4\], .* asks for \[2, 1, 6, 6, 4\]"),
        (changed({12: 2}), r"kernel has the shape .*3, 3, 2, 6\], .* asks for \[1, 3, 2, 2, 6\]"),
        (changed({14: 0}), "stride is 0, outside 1.."),
        (changed({18: 2**31}), "padding is 2147483648, outside -2147483647.."),
        (changed({21: 2**62}), "dilation is 4611686018427387904, outside 1.."),
        (changed({14: 2**31 - 1}), "first and the last output is 4294967294, outside"),
        (changed({17: 2**30, 18: 2**30}), "more than 9007199254740992 numbers"),
    ],
)
def test_a_wrong_geometry_is_refused(target, geometry, message):
    with pytest.raises(jax.errors.JaxRuntimeError, match=f"INVALID_ARGUMENT: .*{message}"):
        call(target, geometry=geometry)


@TARGETS
@pytest.mark.parametrize("which", range(3))
def test_a_buffer_of_another_shape_is_refused(target, which):
    assert np.all(np.isfinite(call(target)))
    for wrong in (lambda s: (*s[:-1], s[-1] + 1), lambda s: s[2:], lambda s: (*s, 1, 1)):
        shapes = list(SHAPES[target])
        shapes[which] = wrong(shapes[which])
        with pytest.raises(jax.errors.JaxRuntimeError, match=r"INVALID_ARGUMENT: .*the shape"):
            call(target, shapes)


@TARGETS
def test_numbers_of_another_type_are_refused(target):
    with pytest.raises(jax.errors.JaxRuntimeError, match="expected F32 but got F16"):
        call(target, dtype=np.float16)
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"INVALID_ARGUMENT"):
        call(target, geometry=GEOMETRY.astype(np.int32))


@pytest.mark.parametrize(
    "scale,add,message",
    [
        ((5,), (0,), "6 numbers each"),
        ((6, 1), (0,), "6 numbers each"),
        ((6,), (1,), r"shape \[1\]"),
        ((6,), (2, 3, 5, 5), r"shape \[2, 3, 5, 5\]"),
    ],
)
def test_an_ending_of_another_shape_is_refused(scale, add, message):
    limits = {"low": np.float32(0), "high": np.float32(6)}
    conv = jax.ffi.ffi_call("jaxnets_conv_ending", jax.ShapeDtypeStruct(SLOPES, np.float32))
    arrays = [np.ones(shape, np.float32) for shape in (IMAGES, KERNEL, (6,), scale, add)]
    with pytest.raises(jax.errors.JaxRuntimeError, match=f"INVALID_ARGUMENT: .*{message}"):
        conv(*arrays, geometry=GEOMETRY, **limits)


@pytest.mark.parametrize("target", ["jaxnets_conv", "jaxnets_conv_kernel_gradient"])
def test_too_little_memory_is_an_error(target):
    """On the pool's threads too, from which an exception would end the process."""
    far = Geometry((1, 1), (2, 2), (1, 1), (2**23, 2**23), (0, 0), (1, 1)).numbers(600, 1, 1)
    shapes = {(2, 6, 5, 4): (600, 1, 1, 1), (2, 3, 5, 6): (600, 2, 2, 1), KERNEL: (1, 1, 1, 1)}
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"RESOURCE_EXHAUSTED: .*out of memory"):
        call(target, [shapes[shape] for shape in SHAPES[target]], far)
    assert np.all(np.isfinite(call(target)))


def build(program, *args):
    compiler = native._compiler()
    assert compiler is not None
    subprocess.run(native._command(compiler, *args, "-o", str(program)), check=True, timeout=250)


@pytest.mark.slow
def test_the_compiler_has_no_warnings(tmp_path):
    build(tmp_path / "library.so", *native._FLAGS, "-Werror")


def runs_here(machine):
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text().split() if cpuinfo.exists() else []
    return machine == "native" or {"haswell": "avx2", "x86-64": "sse2"}[machine] in flags


@pytest.mark.slow
@pytest.mark.parametrize("machine", ["native", "haswell", "x86-64"])
def test_random_geometries_under_sanitizers(machine, tmp_path):
    """Vectors of 16, 8 and 4 floats where this machine has AVX-512."""
    if not runs_here(machine):
        pytest.skip(f"this machine does not run programs for {machine}")
    program = tmp_path / "geometries"
    build(
        program,
        str(Path(__file__).with_name("native_geometries.cc")),
        *("-O1", "-g", "-std=c++17", f"-march={machine}", "-ffp-contract=fast", "-pthread"),
        *("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-DJAXNETS_EXACT_SCRATCH"),
        "-Werror",
    )
    done = subprocess.run([program, "3000"], capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr[-4000:]
    right, refused, exhausted = map(int, re.findall(r"\d+", done.stdout))
    assert right > 3000 and refused > 3000 and exhausted > 3000
