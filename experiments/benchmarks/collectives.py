"""What crosses devices in a step, what for, and how little could do.

Read out of the compiled program: XLA joins sums that don't wait for each other, so fewer messages
may go around than the step asks for. What a sum is for is told by the names that
`jaxnets.devices.axis` gives its scopes.
"""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from experiments.benchmarks import hlo
from jaxnets.devices import axis

#: Instructions that send to other devices; also with "-start" where the program goes on meanwhile.
KINDS = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)

GRADIENTS = "gradients and metrics"
FORWARD = "BatchNorm forward"
BACKWARD = "BatchNorm backward"
OTHER = "other"


@dataclasses.dataclass(frozen=True)
class Part:
    """An array that crosses devices: what for, and its bytes (where it is whole)."""

    purpose: str
    bytes: int


@dataclasses.dataclass(frozen=True)
class Collective:
    """One instruction that sends.

    Attributes:
      kind: one of `KINDS`.
      times: how often one call of the program runs it.
      parts: the arrays that it sends together.
    """

    kind: str
    times: int
    parts: tuple[Part, ...]


def read(text: str) -> list[Collective]:
    """Every instruction that sends to another device, in the order of the text.

    Args:
      text: `compiled.as_text()`.
    """
    program = hlo.parse(text)
    found = []
    for instruction in program:
        kind = instruction.opcode.removesuffix("-start")
        if kind in KINDS and _has_company(instruction, program.header):
            parts = _parts(program, instruction, kind)
            found.append(Collective(kind, program.times(instruction), parts))
    return found


def per_step(found: Sequence[Collective], steps: int) -> list[dict[str, Any]]:
    """A row for each kind: what one step sends.

    Args:
      found: of a program.
      steps: that one call of it makes.

    Returns:
      `kind`; `count` of instructions; `sums`, the arrays that they send; their `bytes`; and
      `purposes`, the sums and bytes for each purpose.
    """
    rows = []
    for kind in KINDS:
        alike = [each for each in found if each.kind == kind]
        if not alike:
            continue
        purposes: dict[str, collections.Counter[str]] = {}
        for each in alike:
            for part in each.parts:
                purpose = purposes.setdefault(part.purpose, collections.Counter())
                purpose.update(sums=each.times, bytes=each.times * part.bytes)
        rows.append(
            {
                "kind": kind,
                "count": _share(sum(each.times for each in alike), steps),
                **{
                    name: _share(sum(purpose[name] for purpose in purposes.values()), steps)
                    for name in ("sums", "bytes")
                },
                "purposes": {
                    purpose: {name: _share(value, steps) for name, value in counted.items()}
                    for purpose, counted in sorted(purposes.items())
                },
            }
        )
    return rows


def least(nets: Mapping[str, Any]) -> dict[str, int]:
    """The sums that one step of these networks can't do without, for each purpose.

    A classifier, or a GAN of which each network is updated once. Gradients, metrics and counts of
    a network are joined, one sum for each type of number. Every BatchNorm needs one sum each time
    that a batch passes it, and one more each time that a gradient does. In a GAN

    - the discriminator's update takes the generator forwards, and the discriminator forwards and
      backwards on reals and on fakes, apart where it has BatchNorms;
    - the generator's update takes both forwards and backwards, on fakes.

    A penalty takes a discriminator's BatchNorms through yet other passes, which are not in here.

    Args:
      nets: name -> `jaxnets.train.state.Net`, of arrays or shapes: "classifier", or "generator" and
        "discriminator".
    """
    norms = {name: _batch_norms(net.model_state) for name, net in nets.items()}
    sums = sum(len(_types(net.params)) for net in nets.values())
    if "classifier" in nets:
        forward = backward = norms["classifier"]
    else:
        forward = 2 * norms["generator"] + 3 * norms["discriminator"]
        backward = norms["generator"] + 3 * norms["discriminator"]
    counts = {GRADIENTS: sums, FORWARD: forward, BACKWARD: backward}
    return {purpose: count for purpose, count in counts.items() if count}


def _has_company(instruction: hlo.Instruction, header: str) -> bool:
    """Whether it sends to another device than its own."""
    groups = re.search(r"replica_groups=(\{\{.*?\}\}|\{\}|\[[^ ]*)", instruction.attributes)
    if groups is None or groups[1] == "{}":  # all there are; permutations have pairs instead
        return re.search(r"(num_partitions|replica_count)=(?!1\b)\d", header) is not None
    if groups[1].startswith("["):  # [groups, members of each]<=[...]
        return not re.match(r"\[\d+,1\]", groups[1])
    return "," in re.sub(r"\},\s*\{", "", groups[1])


def _parts(program: hlo.Program, instruction: hlo.Instruction, kind: str) -> tuple[Part, ...]:
    whole = [program.operand(instruction, i).bytes for i in range(len(instruction.operands))]
    if kind == "all-gather":  # each puts in a part of what all get
        results = sum(shape.bytes for shape in instruction.shapes)
        if instruction.opcode.endswith("-start"):  # which gives the operands, too
            results -= sum(whole)
        whole = [size * results // max(1, sum(whole)) for size in whole]
    sources = _names(instruction.source)
    if len(sources) != len(whole):
        sources = sources * len(whole) if len(sources) == 1 else _origins(program, instruction)
    return tuple(Part(_purpose(source), size) for source, size in zip(sources, whole, strict=True))


def _names(source: str) -> list[str]:
    """The names of what XLA has joined, "a/(b:c(d))" being "a/b" and "a/c(d)"; else the name."""
    for place in (found.start() for found in re.finditer(r"\(", source)):
        if hlo.closing(source, place) != len(source) - 1:
            continue
        parts, depth = [""], 0
        for letter in source[place + 1 : -1]:
            depth += {"(": 1, ")": -1}.get(letter, 0)
            if letter == ":" and depth == 0:
                parts.append("")
            else:
                parts[-1] += letter
        if len(parts) > 1:
            return [source[:place] + part for part in parts]
    return [source]


def _origins(program: hlo.Program, instruction: hlo.Instruction) -> list[str]:
    """The names of what has computed the arrays that are sent."""
    members = program.computations[instruction.computation]
    sources = {each.name: each.source for each in members}
    return [sources[name] for name in instruction.operands]


def _purpose(source: str) -> str:
    scopes = source.split("/")
    if axis.GRADIENTS in scopes:
        return GRADIENTS
    if axis.MOMENTS in scopes:
        return BACKWARD if "transpose(" in source else FORWARD
    return OTHER


def _share(total: int, steps: int) -> float | int:
    return total // steps if total % steps == 0 else total / steps


def _types(params: Any) -> set[str]:
    """Types of the numbers that are summed for a network: its gradients', and metrics' float32."""
    return {"float32", *(str(leaf.dtype) for leaf in jax.tree.leaves(params))}


def _batch_norms(model_state: Mapping[str, Any]) -> int:
    statistics = model_state.get("batch_stats", {})
    names = [path[-1].key for path, _ in jax.tree_util.tree_leaves_with_path(statistics)]
    return names.count("mean")
