"""The library's steps against PyTorch's best, on the same machine, in turn.

Both sides have the same networks, weights, images, precision and cores. First it is checked that
they compute the same; only then is there a ratio.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

from experiments.benchmarks import cases
from jaxnets.errors import UserError

if TYPE_CHECKING:
    import torch

RIVALS = ("eager", "channels_last", "compile")

#: Seconds that a timed window lasts at least.
WINDOW = 0.5

#: Seconds between windows. After its last task a pool of threads spins before it sleeps, and what
#: spins takes a core from the next competitor: torch's OpenMP (libgomp) for 11 ms of one core,
#: XLA's pool for 0.1 ms, measured as CPU time during a sleep. LLVM's OpenMP, which torch has on
#: other platforms, is documented to spin for 200 ms.
PAUSE = 0.25

#: Settings under which torch's threads never sleep.
_SPINNING = (
    ("OMP_WAIT_POLICY", "active"),
    ("GOMP_SPINCOUNT", "infinite"),
    ("GOMP_SPINCOUNT", "infinity"),
    ("KMP_BLOCKTIME", "infinite"),
)


def require_torch() -> Any:
    """PyTorch, or one sentence on how to get it.

    Raises:
      UserError: if it is missing or older than 2.
    """
    try:
        import torch
    except ModuleNotFoundError as error:
        raise UserError(
            'comparing with PyTorch needs it installed: pip install "jaxnets[bench]"'
        ) from error
    if int(torch.__version__.split(".")[0]) < 2:
        raise UserError(
            f"comparing with PyTorch needs version 2 or later, and {torch.__version__} is "
            'installed: pip install "jaxnets[bench]"'
        )
    return torch


def compare(
    case: cases.Case,
    *,
    rounds: int = 7,
    devices: int = 1,
    steps_per_call: int = 1,
    mode: Literal["jit", "pmap"] = "jit",
    rivals: Sequence[str] = RIVALS,
) -> dict[str, Any]:
    """Times a case's step here and in PyTorch, A/B/A/B, after checking that they agree.

    Args:
      case: what is timed.
      rounds: windows of each competitor; at least 5.
      devices: of ours. torch has all cores, or one GPU.
      steps_per_call: steps in one call of our compiled program; torch has no such thing.
      mode: how our step goes onto the devices.
      rivals: ways in which torch runs it, of `RIVALS`.

    Returns:
      A dict:
        ratio: median over the rounds of our seconds by those of the best rival, the one with the
          least median; below 1 we are faster. With ratio_min and ratio_max.
        rival: the best one.
        ours: seconds a step in each round.
        rivals: name -> the same, or a string that says why it could not run.
        discriminator_pass: for a GAN, rival -> "joined" or "apart", the faster way to show the
          discriminator reals and fakes.
        outputs_max_error, step_max_error: see `torch_check.Agreement`.
        threads: cores that each side may use.
        versions: of jax, torch and Python.

    Raises:
      UserError: torch is missing, the case has no twin, an argument is out of range, the two
        sides disagree, or no rival could run.
    """
    from jaxnets import parallel

    unknown = [name for name in rivals if name not in RIVALS]
    if unknown or not rivals:
        raise UserError(f"unknown rivals {unknown}; choose among {', '.join(RIVALS)}")
    for variable, value in _SPINNING:
        if os.environ.get(variable, "").lower() == value:
            raise UserError(
                f"{variable}={value} keeps torch's idle threads on the cores while our side is "
                "timed; unset it"
            )
    if rounds < 5:
        raise UserError(f"{rounds} rounds are too few for a median with a spread; choose 5 or more")
    torch = require_torch()
    import jax

    from experiments.benchmarks import torch_check

    threads = cores()
    mesh = parallel.make_mesh(devices)
    device = torch_device(jax.default_backend())
    with torch_threads(threads):
        with tensor_cores(allowed=False):
            found = torch_check.best_agreement(case, device)
        _insist(case, found)
        with tensor_cores(allowed=True):
            work = cases.build(case)
            ours = _ours(work, mesh, mode, steps_per_call)
            theirs: dict[str, _Competitor] = {}
            reasons: dict[str, str] = {}
            for name in rivals:
                try:
                    theirs[name] = _rival(work, name, device)
                except Exception as error:
                    if name != "compile":
                        raise
                    # Without a C++ compiler, say. It stands in the result, and the others go on.
                    reasons[name] = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
            if not theirs:
                raise UserError(f"no rival could run: {reasons}")
            times = _in_turn([ours, *theirs.values()], rounds)
    best = min(theirs, key=lambda name: statistics.median(times[theirs[name].name]))
    ratios = [a / b for a, b in zip(times[ours.name], times[best], strict=True)]
    result = {
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "rival": best,
        "ours": times[ours.name],
        "rivals": {name: times[name] if name in theirs else reasons[name] for name in rivals},
        "outputs_max_error": found.outputs,
        "step_max_error": found.step,
        "threads": threads,
        "versions": {
            "jax": jax.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }
    if isinstance(case, cases.GanCase):
        result["discriminator_pass"] = {name: one.note for name, one in theirs.items()}
    return result


def _insist(case: cases.Case, found: Any) -> None:
    from experiments.benchmarks.torch_check import OUTPUTS_TOLERANCE, STEP_TOLERANCE

    for what, error, most in (
        ("outputs", found.outputs, OUTPUTS_TOLERANCE),
        ("updates after one step", found.step, STEP_TOLERANCE),
    ):
        if not error <= most:  # NaN too
            raise UserError(
                f"{case.name}: the {what} of jaxnets and of its PyTorch twin differ by {error:.2g} "
                f"of the largest, more than the {most:g} that rounding may do, so nothing is timed"
            )


@dataclasses.dataclass
class _Competitor:
    """What is timed.

    Attributes:
      name: in the result.
      call: does `steps` steps, the next ones.
      wait: until everything is done.
      steps: in a call.
      note: what was chosen for it.
      calls: in a window; set by `_warm`.
    """

    name: str
    call: Callable[[], None]
    wait: Callable[[], None]
    steps: int = 1
    note: str = ""
    calls: int = 1

    def window(self) -> float:
        """Seconds a step, over a window of chained calls."""
        begin = time.perf_counter()
        for _ in range(self.calls):
            self.call()
        self.wait()
        return (time.perf_counter() - begin) / (self.calls * self.steps)


def _warm(competitor: _Competitor) -> _Competitor:
    """Compiles, and finds how many calls fill a window."""
    for _ in range(3):
        competitor.calls = 1
        seconds = competitor.window() * competitor.steps
    competitor.calls = max(1, math.ceil(WINDOW / seconds))
    return competitor


def _in_turn(competitors: Sequence[_Competitor], rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {one.name: [] for one in competitors}
    for _ in range(rounds):
        for one in competitors:
            time.sleep(PAUSE)
            times[one.name].append(one.window())
    return times


def _ours(work: cases.Work, mesh: Any, mode: Any, steps_per_call: int) -> _Competitor:
    import jax
    import jax.numpy as jnp
    from jax.sharding import NamedSharding, PartitionSpec

    from jaxnets import parallel

    compiled = parallel.compile_step(work.step, mesh, mode, steps_per_call=steps_per_call)
    feed = work.feed(steps_per_call)
    axes = ("data",) if steps_per_call == 1 else (None, "data")
    if mode == "jit":
        feed = jax.device_put(feed, NamedSharding(mesh, PartitionSpec(*axes)))
    # A copy: the step donates it, and the rivals begin with the same weights.
    state = parallel.replicate(jax.tree.map(jnp.copy, work.state), mesh)

    def call() -> None:
        nonlocal state
        state, _ = compiled(state, feed)

    def wait() -> None:
        jax.block_until_ready(state)

    return _warm(_Competitor("ours", call, wait, steps_per_call))


def _rival(work: cases.Work, name: str, device: torch.device) -> _Competitor:
    """PyTorch in one form; for a GAN with the faster of two ways to write its step."""
    from experiments.benchmarks import torch_check
    from experiments.benchmarks.torch_networks import has_batch_norm

    if isinstance(work.case, cases.ClassifierCase):
        return _rival_step(work, name, device, joined=False)
    if has_batch_norm(torch_check.twins(work)["discriminator"]):
        return _rival_step(work, name, device, joined=False)
    ways = [_rival_step(work, name, device, joined=joined) for joined in (False, True)]
    tried = [[way.window() for way in ways] for _ in range(3)]
    medians = [statistics.median(times) for times in zip(*tried, strict=True)]
    return ways[medians.index(min(medians))]


def _rival_step(work: cases.Work, name: str, device: torch.device, *, joined: bool) -> _Competitor:
    import numpy as np
    import torch

    from experiments.benchmarks import torch_check, torch_steps

    form = torch_steps.FORMS[name]
    made = {
        key: torch_steps.place(twin, form, device) for key, twin in torch_check.twins(work).items()
    }
    step = torch_check.twin_step(work.case, made, form, device, joined=joined)
    images = torch_steps.place_images(np.asarray(work.batch["inputs"]), form, device)
    labels = torch_steps.place_labels(np.asarray(work.batch["target"]), device)

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    note = "joined" if joined else "apart"
    return _warm(_Competitor(name, lambda: step(images, labels), wait, note=note))


def cores() -> int:
    """Cores that this process may use; XLA's pool has as many threads."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def torch_device(backend: str) -> torch.device:
    """The torch device on which a jax backend's rival runs.

    Raises:
      UserError: torch has no such device.
    """
    import torch

    if backend == "cpu":
        return torch.device("cpu")
    if backend in ("gpu", "cuda", "rocm") and torch.cuda.is_available():
        return torch.device("cuda")
    raise UserError(
        f"jax computes on {backend} and the installed PyTorch {torch.__version__} can't; install "
        "one that can, or set JAX_PLATFORMS=cpu"
    )


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Lets an operation of torch use so many threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def tensor_cores(*, allowed: bool) -> Iterator[None]:
    """TF32 on NVIDIA GPUs for float32, which is jax's default; and cuDNN's search for algorithms.

    jax's own setting follows from `jax.default_matmul_precision`, here left at its default.
    """
    import torch

    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    if hasattr(matmul, "fp32_precision"):  # torch 2.9 and later, which warns of the other way
        name, value = "fp32_precision", "tf32" if allowed else "ieee"
        places: list[tuple[Any, str, Any]] = [(cudnn.conv, name, value), (matmul, name, value)]
    else:
        places = [(cudnn, "allow_tf32", allowed), (matmul, "allow_tf32", allowed)]
    places.append((cudnn, "benchmark", True))
    before = [getattr(owner, name) for owner, name, _ in places]
    try:
        for owner, name, value in places:
            setattr(owner, name, value)
        yield
    finally:
        for (owner, name, _), value in zip(places, before, strict=True):
            setattr(owner, name, value)
