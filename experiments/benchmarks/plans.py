"""What a compiled step keeps in memory, and whether donation took."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from jaxnets.commands.memory import size_of


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on one device, as XLA has planned them.

    Attributes:
      arguments: state, batch and source.
      outputs: state and metrics.
      aliased: of the outputs, those that are written over donated arguments.
      temporaries: everything in between.
      code: the program itself; 0 where the backend does not tell.
    """

    arguments: int
    outputs: int
    aliased: int
    temporaries: int
    code: int

    @property
    def peak(self) -> int:
        """All that must be there at once."""
        return self.arguments + self.outputs - self.aliased + self.temporaries + self.code


@dataclasses.dataclass(frozen=True)
class Donation:
    """Which leaves of the state are updated in place.

    Attributes:
      leaves: how many the state has.
      bytes: how large they are together.
      copied: names of those that the program writes to a new place.
      unused: names of those that the program neither reads nor writes.
    """

    leaves: int
    bytes: int
    copied: tuple[str, ...]
    unused: tuple[str, ...]

    @property
    def took(self) -> bool:
        """Whether nothing is copied."""
        return not self.copied


def planned(compiled: Any) -> Memory | None:
    """The plan of a compiled program; None where the backend tells nothing."""
    analysis = compiled.memory_analysis()
    if analysis is None:
        return None
    return Memory(
        arguments=analysis.argument_size_in_bytes,
        outputs=analysis.output_size_in_bytes,
        aliased=analysis.alias_size_in_bytes,
        temporaries=analysis.temp_size_in_bytes,
        code=analysis.generated_code_size_in_bytes,
    )


def donation(text: str, state: Any) -> Donation:
    """Reads, out of the text of a compiled step, what became of each leaf of the state.

    Args:
      text: `compiled.as_text()` of a step whose first argument is named `state` (jit), or whose
        flat arguments begin with the state's (pmap).
      state: the state that it was compiled for; arrays or shapes.
    """
    import jax

    header, _, rest = text.partition("\n")
    entry = rest[rest.rindex("\nENTRY ") :]
    found = re.findall(r" parameter\((\d+)\).*?op_name=\"((?:[^\"\\]|\\.)*)\"", entry)
    numbers = {re.sub(r"\\(.)", r"\1", name): int(number) for number, name in found}
    aliases = re.search(r"input_output_alias=\{(.*?)\}, \w+=", header)
    kept = {int(n) for n in re.findall(r": \((\d+), \{\}", aliases[1])} if aliases else set()
    leaves = jax.tree_util.tree_leaves_with_path(state)
    copied, unused = [], []
    for place, (path, _) in enumerate(leaves):
        name = jax.tree_util.keystr(path)
        number = numbers.get(f"state{name}", numbers.get(f"flat_args[{place}]"))
        if number is None:
            unused.append(name.lstrip("."))
        elif number not in kept:
            copied.append(name.lstrip("."))
    size = sum(size_of(leaf) for _, leaf in leaves)
    return Donation(len(leaves), size, tuple(copied), tuple(unused))
