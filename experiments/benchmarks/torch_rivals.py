"""The library's steps against PyTorch's best, on the same machine, in turn.

Both sides have the same networks, weights, images, precision and cores. First it is checked that
they compute the same; only then is there a ratio.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import contextlib
import os
import platform
import statistics
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

import jax
import numpy as np

from experiments.benchmarks import cases, machine, timing
from experiments.benchmarks.configs import Case, ClassifierCase, GanCase
from jaxnets.devices import parallel
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
      UserError: if it is missing or older than 2.9, from which on it has `fp32_precision`.
    """
    try:
        import torch
    except ModuleNotFoundError as error:
        raise UserError(
            'comparing with PyTorch needs it installed: pip install "jaxnets[bench]"'
        ) from error
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 9):
        raise UserError(
            f"comparing with PyTorch needs version 2.9 or later, and {torch.__version__} is "
            'installed: pip install "jaxnets[bench]"'
        )
    return torch


def compare(
    case: Case,
    *,
    rounds: int = 7,
    devices: int = 1,
    steps_per_call: int = 1,
    mode: Literal["jit", "pmap"] = "jit",
) -> dict[str, Any]:
    """Times a case's step here and in PyTorch, A/B/A/B, after checking that they agree.

    Args:
      case: what is timed.
      rounds: windows of each competitor; at least 5.
      devices: of ours. torch has all cores, or one GPU.
      steps_per_call: steps in one call of our compiled program; torch has no such thing.
      mode: how our step goes onto the devices.

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
      UserError: torch is missing, the case has no twin, there are too few rounds, or the two
        sides disagree.
    """
    for variable, value in _SPINNING:
        if os.environ.get(variable, "").lower() == value:
            raise UserError(
                f"{variable}={value} keeps torch's idle threads on the cores while our side is "
                "timed; unset it"
            )
    if rounds < 5:
        raise UserError(f"{rounds} rounds are too few for a median with a spread; choose 5 or more")
    torch = require_torch()
    from experiments.benchmarks import torch_check

    mesh = parallel.make_mesh(devices)
    device = torch_device(jax.default_backend())
    with torch_threads(machine.cores()), tensor_cores(allowed=False):
        agreement = torch_check.best_agreement(case, device)
    torch_check.insist(case, agreement)
    work = cases.build(case)
    ours = cases.Running(work, mesh, mode, steps_per_call)
    with torch_threads(machine.cores()), tensor_cores(allowed=True):
        theirs, notes, reasons = _rivals(work, device)
        runners = {"ours": timing.Runner(ours, units=steps_per_call, min_seconds=WINDOW), **theirs}
        times = timing.interleave(runners, rounds, PAUSE)
    best = min(theirs, key=lambda name: statistics.median(times[name]))
    ratios = [a / b for a, b in zip(times["ours"], times[best], strict=True)]
    return {
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "rival": best,
        "ours": times["ours"],
        "rivals": {name: times.get(name, reasons.get(name)) for name in RIVALS},
        "outputs_max_error": agreement.outputs,
        "step_max_error": agreement.step,
        "threads": machine.cores(),
        "versions": {
            "jax": jax.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        **({"discriminator_pass": notes} if isinstance(case, GanCase) else {}),
    }


def _rivals(
    work: cases.Work, device: torch.device
) -> tuple[dict[str, timing.Runner], dict[str, str], dict[str, str]]:
    """PyTorch in every form that can run; how each shows the discriminator its images; failures."""
    runners: dict[str, timing.Runner] = {}
    notes: dict[str, str] = {}
    reasons: dict[str, str] = {}
    for name in RIVALS:
        try:
            runners[name], notes[name] = _rival(work, name, device)
        except Exception as error:
            if name != "compile":
                raise
            # Without a C++ compiler, say. It stands in the result, and the others go on.
            reasons[name] = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
    return runners, notes, reasons


def _rival(work: cases.Work, name: str, device: torch.device) -> tuple[timing.Runner, str]:
    """PyTorch in one form; for a GAN with the faster of two ways to write its step."""
    from experiments.benchmarks import torch_check
    from experiments.benchmarks.torch_layers import has_batch_norm

    apart = _rival_step(work, name, device, joined=False)
    if isinstance(work.case, ClassifierCase):
        return apart, "apart"
    if has_batch_norm(torch_check.twins(work)["discriminator"]):
        return apart, "apart"
    ways = {"apart": apart, "joined": _rival_step(work, name, device, joined=True)}
    times = timing.interleave(ways, 3)
    note = min(ways, key=lambda way: statistics.median(times[way]))
    return ways[note], note


def _rival_step(work: cases.Work, name: str, device: torch.device, *, joined: bool) -> Any:
    import torch

    from experiments.benchmarks import torch_check, torch_steps

    form = torch_steps.FORMS[name]
    made = {
        key: torch_steps.place(twin, form, device) for key, twin in torch_check.twins(work).items()
    }
    step = torch_check.twin_step(work.case, made, form, device, joined=joined)
    images = torch_steps.place_images(np.asarray(work.batch["inputs"]), form, device)
    labels = torch_steps.place_labels(np.asarray(work.batch["target"]), device)

    def wait(_: Any) -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    return timing.Runner(lambda: step(images, labels), min_seconds=WINDOW, wait=wait)


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
    value = "tf32" if allowed else "ieee"
    places: list[tuple[Any, str, Any]] = [(matmul, "fp32_precision", value)]
    places += [(cudnn.conv, "fp32_precision", value), (cudnn, "benchmark", True)]
    before = [getattr(owner, name) for owner, name, _ in places]
    try:
        for owner, name, value in places:
            setattr(owner, name, value)
        yield
    finally:
        for (owner, name, _), value in zip(places, before, strict=True):
            setattr(owner, name, value)
