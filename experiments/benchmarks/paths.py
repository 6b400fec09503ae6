"""Which code the convolutions and matrix products of a compiled program run in, and why.

XLA gives an operation to a library, or writes a loop nest for it. On a CPU the nest is 5 to 100
times slower for a convolution, and nothing tells: the text of the compiled program does.

What XLA:CPU does was found out with jax 0.10.2, by dumping the kernels that it writes
(`XLA_FLAGS=--xla_dump_to=...`; a nest is a file `*_elemental_kernel_module*`) and by timing each
form. A convolution is rewritten into the library's layout only in the entry computation: in a loop
it keeps the layout that differentiation gave it, and goes to a library only if that fits.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Literal

from experiments.benchmarks import hlo

Path = Literal["library call", "generated kernel", "fused kernel", "loop nest"]

#: The paths that run an operation element by element.
SLOW: tuple[Path, ...] = ("fused kernel", "loop nest")

#: Types that Eigen, XLA:CPU's library, has code for.
_EIGEN_CONVOLUTIONS = ("f16", "f32")
_EIGEN_PRODUCTS = ("f16", "f32", "f64", "c64", "c128", "s32")

_CUSTOM_CONVOLUTION = re.compile(r"conv", re.IGNORECASE)
_CUSTOM_PRODUCT = re.compile(r"gemm|matmul|\bdot\b", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Operation:
    """A convolution or a product of matrices.

    Attributes:
      kind: which of the two.
      path: the code that it runs in.
      reason: why, or whose code.
      shape: of the result.
      times: how often one call of the program runs it.
      flops: of one run, zeros and padding included; 0 where a library hides it.
      source: its name in the traced program.
    """

    kind: Literal["convolution", "dot"]
    path: Path
    reason: str
    shape: str
    times: int
    flops: int
    source: str


def operations(text: str, backend: str = "cpu") -> list[Operation]:
    """Every convolution and product of matrices.

    Args:
      text: `compiled.as_text()`.
      backend: cpu, gpu or tpu.
    """
    program = hlo.parse(text)
    found = []
    for instruction in program:
        kind = _kind(instruction)
        if kind is None:
            continue
        path, reason = _path(program, instruction, kind, backend)
        flops = 0
        if instruction.opcode == "convolution":
            flops = _convolution_flops(program, instruction)
        elif instruction.opcode == "dot":
            flops = 2 * math.prod(_product_sizes(program, instruction))
        shape = str(instruction.shapes[0])
        times = program.times(instruction)
        found.append(Operation(kind, path, reason, shape, times, flops, instruction.source))
    return found


def loop_nests(text: str, backend: str = "cpu") -> list[Operation]:
    """The convolutions that run element by element; none, one hopes.

    Args:
      text: `compiled.as_text()`.
      backend: cpu, gpu or tpu.
    """
    found = operations(text, backend)
    return [each for each in found if each.kind == "convolution" and each.path in SLOW]


def summary(found: Sequence[Operation]) -> list[dict[str, int | str]]:
    """Operations of one kind, path and reason together, the costliest first."""
    groups: dict[tuple[str, str, str], list[Operation]] = {}
    for each in found:
        groups.setdefault((each.kind, each.path, each.reason), []).append(each)
    rows: list[dict[str, int | str]] = [
        {
            "kind": kind,
            "path": path,
            "reason": reason,
            "operations": len(members),
            "runs": sum(each.times for each in members),
            "flops": sum(each.times * each.flops for each in members),
        }
        for (kind, path, reason), members in groups.items()
    ]
    return sorted(rows, key=lambda row: -int(row["flops"]))


def _kind(instruction: hlo.Instruction) -> Literal["convolution", "dot"] | None:
    if instruction.opcode == "convolution":
        return "convolution"
    if instruction.opcode == "dot":
        return "dot"
    if instruction.opcode == "custom-call":
        target = instruction.attribute("custom_call_target")
        if _CUSTOM_CONVOLUTION.search(target):
            return "convolution"
        if _CUSTOM_PRODUCT.search(target):
            return "dot"
    return None


def _path(
    program: hlo.Program,
    instruction: hlo.Instruction,
    kind: Literal["convolution", "dot"],
    backend: str,
) -> tuple[Path, str]:
    if instruction.opcode == "custom-call":
        return "library call", instruction.attribute("custom_call_target").strip('"')
    if backend == "tpu":
        return "library call", "the matrix unit"
    caller = program.caller(instruction)
    if caller is not None and caller.opcode == "fusion":
        custom = re.search(r'"kind":"__(\w+?)(?:_fusion)?"', caller.attributes)
        if custom is None:
            return "fused kernel", "computed for each element of a fusion"
        if re.search("triton|nested", custom[1]):
            return "generated kernel", custom[1]
        return "library call", custom[1].upper() if custom[1] == "ynn" else custom[1]
    if backend != "cpu":
        return "loop nest", "no library was found for it"
    decide = _convolution_on_cpu if kind == "convolution" else _product_on_cpu
    obstacle = decide(program, instruction)
    return ("loop nest", obstacle) if obstacle else ("library call", "Eigen")


def _convolution_on_cpu(program: hlo.Program, instruction: hlo.Instruction) -> str:
    """What keeps a convolution from Eigen's fast code; "" if nothing does.

    The conditions of XLA's PotentiallyImplementedAsEigenConvolution, and one that was measured:
    Eigen's code for three axes takes no dilation but in a slow general form.
    """
    shape = instruction.shapes[0]
    labels = instruction.attribute("dim_labels")
    window = instruction.attribute("window")
    axes = len(shape.sizes) - 2
    spatial = "".join(map(str, range(axes)))
    in_loop = ", in a loop" if program.loops(instruction) else ""
    if shape.dtype not in _EIGEN_CONVOLUTIONS:
        return f"no library code for {shape.dtype}"
    if re.search(r"rhs_reversal=[0x]*1", window):
        return f"reversed window{in_loop}"
    if not 1 <= axes <= 3:
        return f"{axes} spatial axes"
    if labels != f"b{spatial}f_{spatial}io->b{spatial}f":
        return f"layout {labels}{in_loop}"
    if not shape.row_major:
        return f"result not row-major{in_loop}"
    if axes == 3 and "dilate" in window:
        return "dilation over three axes"
    return ""


def _product_on_cpu(program: hlo.Program, instruction: hlo.Instruction) -> str:
    """What keeps a product from the library; "" if nothing does."""
    _, rows, columns, inner = _product_sizes(program, instruction)
    if instruction.shapes[0].dtype not in _EIGEN_PRODUCTS:
        return f"no library code for {instruction.shapes[0].dtype}"
    if 1 in (rows, columns):
        return "matrix times vector"
    if rows * columns * inner < 64:
        return "fewer than 64 multiplications"
    return ""


def _product_sizes(program: hlo.Program, instruction: hlo.Instruction) -> tuple[int, int, int, int]:
    """(batch, rows, columns, contracted)."""
    left, right = (program.operand(instruction, place).sizes for place in (0, 1))

    def sizes(side: str, of: tuple[int, ...], what: str) -> int:
        axes = instruction.attribute(f"{side}_{what}_dims")
        return math.prod(of[int(axis)] for axis in axes.split(",") if axis)

    batch, inner = sizes("lhs", left, "batch"), sizes("lhs", left, "contracting")
    rows = math.prod(left) // max(1, batch * inner)
    return batch, rows, math.prod(right) // max(1, batch * inner), inner


def _convolution_flops(program: hlo.Program, instruction: hlo.Instruction) -> int:
    """2 x elements of the result x taps x input channels of a group."""
    kernel = program.operand(instruction, 1).sizes
    labels = instruction.attribute("dim_labels").split("_")[1].split("->")[0]
    features = kernel[labels.index("o")]
    return 2 * math.prod(instruction.shapes[0].sizes) * math.prod(kernel) // max(1, features)
