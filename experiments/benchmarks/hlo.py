"""A compiled program's text: its computations, who calls them, and how often.

Only what the reports need is read: names, shapes, operation codes, operands and attributes. The
form is that of `compiled.as_text()` in jax 0.10 to 0.12.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Iterator

#: Bits of an element, by the name that HLO gives its type.
_BITS = {
    "pred": 8,
    "bf16": 16,
    "c64": 64,
    "c128": 128,
    **{f"{kind}{bits}": bits for kind in "su" for bits in (2, 4, 8, 16, 32, 64)},
    **{f"f{bits}": bits for bits in (16, 32, 64)},
}

_ARRAY = re.compile(r"([a-z]+\d*[a-z0-9]*)\[([\d,]*)\](?:\{([\d,]*)[^}]*\})?")
_CALLED = re.compile(r"\b(?:calls|to_apply|body|condition|\w+_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")


@dataclasses.dataclass(frozen=True)
class Shape:
    """An array: type, sizes, and its axes from the fastest in memory to the slowest."""

    dtype: str
    sizes: tuple[int, ...]
    layout: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """In memory; 0 for a type that holds no numbers (a token)."""
        return math.prod(self.sizes) * _BITS.get(self.dtype, 0) // 8

    @property
    def row_major(self) -> bool:
        """Whether the last axis is the fastest, as XLA:CPU's libraries want it."""
        return self.layout == tuple(reversed(range(len(self.sizes))))

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.sizes))}]"


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
      name: unique in the program.
      opcode: convolution, dot, fusion, while, ...
      shapes: of its result, or of the results if they are several.
      operands: names of instructions of the same computation.
      attributes: what follows the operands, as text.
      computation: where it stands.
    """

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    operands: tuple[str, ...]
    attributes: str
    computation: str

    def attribute(self, name: str) -> str:
        """The value of `name=value` or `name={value}`, "" where there is none."""
        found = re.search(rf"\b{name}=(?:\{{([^{{}}]*)\}}|([^\s,]+))", self.attributes)
        return "" if found is None else found[1] if found[1] is not None else found[2]

    @property
    def source(self) -> str:
        """The operation's name in the traced program ("jit(step)/.../conv_general_dilated")."""
        found = re.search(r'op_name="((?:[^"\\]|\\.)*)"', self.attributes)
        return "" if found is None else re.sub(r"\\(.)", r"\1", found[1])


@dataclasses.dataclass(frozen=True)
class Program:
    """All instructions.

    Attributes:
      header: the first line.
      computations: name -> instructions, in order.
      entry: name of the computation that a call of the program runs.
    """

    header: str
    computations: dict[str, tuple[Instruction, ...]]
    entry: str

    def __iter__(self) -> Iterator[Instruction]:
        for instructions in self.computations.values():
            yield from instructions

    @functools.cached_property
    def callers(self) -> dict[str, Instruction]:
        """Computation -> the instruction that runs it (the last, where several do)."""
        found = {}
        for instruction in self:
            names = _CALLED.findall(instruction.attributes)
            for branches in _BRANCHES.findall(instruction.attributes):
                names += re.findall(r"%?([\w.\-]+)", branches)
            found.update(dict.fromkeys(names, instruction))
        return found

    def operand(self, instruction: Instruction, place: int) -> Shape:
        """Shape of an operand."""
        name = instruction.operands[place]
        for other in self.computations[instruction.computation]:
            if other.name == name:
                return other.shapes[0]
        raise LookupError(f"{instruction.name} reads {name}, which is not there")

    def caller(self, instruction: Instruction) -> Instruction | None:
        """The instruction that runs the computation in which this one stands; None at the top."""
        return self.callers.get(instruction.computation)

    def loops(self, instruction: Instruction) -> list[Instruction]:
        """The `while` instructions around it, from the inside out."""
        found = []
        at = self.caller(instruction)
        while at is not None:
            if at.opcode == "while":
                found.append(at)
            at = self.caller(at)
        return found

    def times(self, instruction: Instruction) -> int:
        """How often one call of the program runs it; a loop of unknown length counts once."""
        turns = 1
        for loop in self.loops(instruction):
            known = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.attributes)
            turns *= int(known[1]) if known else 1
        return turns


def parse(text: str) -> Program:
    """The program of `compiled.as_text()`.

    Raises:
      ValueError: if the text has no entry computation.
    """
    computations: dict[str, list[Instruction]] = {}
    entry, at = "", ""
    for line in text.splitlines():
        opened = re.match(r"(ENTRY )?%?([\w.\-]+)(?: \(.*\))?(?: -> .*)? \{$", line)
        if opened:
            at = opened[2]
            entry = at if opened[1] else entry
            computations[at] = []
        elif at and " = " in line:
            instruction = _instruction(line, at)
            if instruction is not None:
                computations[at].append(instruction)
    if not entry:
        raise ValueError("no HLO program: it has no ENTRY computation")
    whole = {name: tuple(instructions) for name, instructions in computations.items()}
    return Program(text.splitlines()[0], whole, entry)


def _instruction(line: str, computation: str) -> Instruction | None:
    found = re.match(r"\s*(?:ROOT )?%?([\w.\-]+) = ", line)
    if found is None:
        return None
    name, rest = found[1], line[found.end() :]
    end = closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    shapes = tuple(_shapes(rest[:end]))
    found = re.match(r"\s*([\w\-]+)\(", rest[end:])
    if found is None:
        return None
    start = end + found.end() - 1
    close = closing(rest, start)
    operands = tuple(re.findall(r"%([\w.\-]+)", rest[start:close]))
    return Instruction(name, found[1], shapes, operands, rest[close + 1 :], computation)


def _shapes(text: str) -> Iterator[Shape]:
    for dtype, sizes, layout in _ARRAY.findall(text):
        numbers = tuple(int(n) for n in sizes.split(",") if n)
        axes = tuple(int(n) for n in layout.split(",") if n)
        yield Shape(dtype, numbers, axes or tuple(reversed(range(len(numbers)))))


def closing(text: str, start: int) -> int:
    """Place of the bracket that closes the one at `start`."""
    depth = 0
    for place in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if depth == 0:
            return place
    return len(text) - 1
