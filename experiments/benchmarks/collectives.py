"""What crosses devices in a step, what for, how little could do, and what many chips make of it.

Read out of the compiled program: XLA joins sums that don't wait for each other, so fewer messages
may go around than the step asks for. What a sum is for is told by the names that `jaxnets.axis`
gives its scopes.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.benchmarks import hlo

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

#: Numbers of chips that the estimate is made for.
CHIPS = (8, 64, 512)


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


@dataclasses.dataclass(frozen=True)
class Link:
    """What a message costs, and how fast the chips at its ends are; all of it assumed.

    Attributes:
      bandwidth: bytes a second that a chip sends.
      latency: seconds that a message takes however small it is.
      chip_flops: useful operations a second that a chip makes.
    """

    bandwidth: float
    latency: float
    chip_flops: float


#: One of the four ports of a TPU v5e in one direction (400 GB/s over all ports and both directions,
#: https://docs.cloud.google.com/tpu/docs/v5e), which is also what a 400 Gbit/s network card gives
#: each GPU; a microsecond a message, an assumption; and 40% of the v5e's 197 TFLOP/s in bfloat16,
#: which is much for a convolutional network: a slower chip waits a smaller share of its time.
LINK = Link(bandwidth=50e9, latency=1e-6, chip_flops=79e12)


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
      nets: name -> `jaxnets.state.Net`, of arrays or shapes: "classifier", or "generator" and
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


def message_seconds(kind: str, count: float, size: float, chips: int, link: Link) -> float:
    """An estimate of the time that collectives take among some number of chips.

    With b bytes, n chips, a bandwidth B and a latency L, an all-reduce takes

        2 (n - 1) / n * b / B + 2 * ceil(log2 n) * L

    which is a reduce-scatter by recursive halving and then an all-gather by recursive doubling:
    of the algorithms that send no more bytes than a ring does, the one with the fewest messages
    one after the other (a ring has 2 (n - 1)). The other kinds are half of it, and a permutation
    is one message.

    Args:
      kind: one of `KINDS`.
      count: how many.
      size: bytes of all of them together.
      chips: n, at least 2.
      link: B and L.

    Returns:
      Seconds.

    Reference: Thakur, Rabenseifner and Gropp 2005, Optimization of Collective Communication
      Operations in MPICH, section 4.5.
    """
    if kind == "collective-permute":
        return size / link.bandwidth + count * link.latency
    halves = 2 if kind == "all-reduce" else 1
    sending = (chips - 1) / chips * size / link.bandwidth
    return halves * (sending + count * math.ceil(math.log2(chips)) * link.latency)


def weak_scaling(
    rows: Sequence[Mapping[str, Any]], step_seconds: float, device_flops: float, link: Link
) -> list[dict[str, Any]]:
    """An estimate, from what a step sends, of how well it keeps its speed on more chips.

    Each chip has the share of the batch that a device has here. What is sent is not overlapped
    with anything, so the efficiency is

        step / (step + messages)

    of the step's time without messages. That is taken once as measured here, messages between
    these devices included, and once as the useful operations at the rate of an assumed chip.

    Args:
      rows: of `per_step`.
      step_seconds: measured.
      device_flops: useful operations that a device makes in a step.
      link: see `Link`.

    Returns:
      For each of `CHIPS`: `chips`, `message_seconds`, `efficiency_here`, `efficiency_assumed`.
    """
    assumed = device_flops / link.chip_flops
    found = []
    for chips in CHIPS:
        seconds = sum(
            message_seconds(row["kind"], row["count"], row["bytes"], chips, link) for row in rows
        )
        found.append(
            {
                "chips": chips,
                "message_seconds": seconds,
                "efficiency_here": step_seconds / (step_seconds + seconds),
                "efficiency_assumed": assumed / (assumed + seconds),
            }
        )
    return found


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
    from jaxnets import axis

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
    import jax

    return {"float32", *(str(leaf.dtype) for leaf in jax.tree.leaves(params))}


def _batch_norms(model_state: Mapping[str, Any]) -> int:
    import jax

    statistics = model_state.get("batch_stats", {})
    names = [path[-1].key for path, _ in jax.tree_util.tree_leaves_with_path(statistics)]
    return names.count("mean")
