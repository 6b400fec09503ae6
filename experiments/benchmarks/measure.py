"""Everything that a report says of one case, as a tree that JSON can hold."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from experiments.benchmarks import cases, collectives, flops, machine, paths, plans, timing
from jaxnets.commands import memory
from jaxnets.errors import UserError

if TYPE_CHECKING:
    from jaxnets.parallel import CompiledStep

#: Sizes of the square matrices whose fastest product is the peak.
PEAK_SIZES = (1024, 2048, 4096)


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a case is measured.

    Attributes:
      devices: how many.
      mode: jit or pmap.
      shard_params: whether the state is divided among the devices.
      steps_per_call: training steps in one call of the program.
      rounds: timed windows of each thing that is timed.
      min_seconds: least length of a window.
      plain: whether XLA's own convolutions are timed, and not those of `jaxnets.ops`.
      calls: steps a call to be compared.
      link: between chips, for the estimate of weak scaling.
      peak_sizes: see `PEAK_SIZES`.
    """

    devices: int = 1
    mode: str = "jit"
    shard_params: bool = False
    steps_per_call: int = 1
    rounds: int = 7
    min_seconds: float = 0.5
    plain: bool = False
    calls: Sequence[int] = ()
    link: collectives.Link = collectives.LINK
    peak_sizes: Sequence[int] = PEAK_SIZES


def measure(
    case: cases.Case, settings: Settings, say: Callable[[str], None] = lambda text: None
) -> dict[str, Any]:
    """Measures one case.

    Args:
      case: what.
      settings: how.
      say: is told what is going on.

    Returns:
      `name`, `case`, and what the keys of the report say (see `experiments.benchmarks.report`).

    Raises:
      UserError: for sizes that can't be, or that memory can't hold.
    """
    mesh = machine.start(settings.devices)
    with _out_of_memory_is_an_error_of_the_user(case):
        return _measure(case, settings, mesh, say)


def _measure(
    case: cases.Case, settings: Settings, mesh: Any, say: Callable[[str], None]
) -> dict[str, Any]:
    import jax

    pixels = case.batch_size * case.image_size**2 * case.channels * settings.steps_per_call
    if pixels > 0:  # one float64 and one float32 while the images are drawn
        memory.check_fits(12 * pixels, memory.host_available(), f"the batch of {case.name}")
    say("tracing, counting operations")
    work, shapes = _shapes(case)
    state = sum(memory.size_of(leaf) for leaf in jax.tree.leaves(shapes))
    memory.check_fits(2 * state, memory.host_available(), f"the state of {case.name}")
    counted = flops.count(work.step, shapes, work.batch)

    say("compiling twice")
    program = Program(work, shapes, mesh, settings, settings.steps_per_call)
    compiled, stages = timing.stages(program.make, shapes, program.feed)
    plan = plans.planned(compiled)
    device = mesh.devices.flat[0]
    if plan is not None:
        copies = mesh.size if device.platform == "cpu" else 1  # CPU devices share one memory
        memory.check_fits(plan.peak * copies, memory.available(device), case.name)
    text = compiled.as_text()
    donation = plans.donation(text, shapes)
    sent = collectives.per_step(collectives.read(text), settings.steps_per_call)

    say("warming up")
    work = cases.build(case)
    main = program.runner(compiled, work.state)
    runners = {"step": main}
    for steps in settings.calls:
        if steps == settings.steps_per_call:
            continue
        other = Program(work, shapes, mesh, settings, steps)
        runners[f"{steps} a call"] = other.runner(other.compile(), work.state)
    peak = timing.matmul_peak(mesh, settings.peak_sizes, case.dtype, settings.min_seconds)
    runners["peak"] = peak.runner
    say(f"timing {settings.rounds} rounds")
    times = timing.interleave(runners, settings.rounds)
    times[f"{settings.steps_per_call} a call"] = times["step"]

    step = timing.spread(times["step"])
    rates = [peak.flops / seconds for seconds in times["peak"]]
    shares = [
        counted.total / seconds / rate for seconds, rate in zip(times["step"], rates, strict=True)
    ]
    kind = "classifier" if isinstance(case, cases.ClassifierCase) else "gan"
    return {
        "name": case.name,
        "case": {"kind": kind, **dataclasses.asdict(case)},
        "devices": settings.devices,
        "mode": settings.mode,
        "shard_params": settings.shard_params,
        "steps_per_call": settings.steps_per_call,
        "plain": settings.plain,
        "seconds_before_steps": {
            **dataclasses.asdict(stages),
            "first_call": main.first_seconds,
        },
        "step_seconds": {**step, "calls_in_a_window": main.calls},
        "images_per_second": case.batch_size / step["median"],
        "flops": {**dataclasses.asdict(counted), "total": counted.total},
        "flops_per_second": counted.total / step["median"],
        "peak": {
            **timing.spread(rates),
            "size": peak.size,
            "dtype": case.dtype,
            "tried": {str(size): rate for size, rate in peak.tried.items()},
        },
        "share_of_peak": timing.spread(shares),
        "memory": None if plan is None else {**dataclasses.asdict(plan), "peak": plan.peak},
        "donation": {**dataclasses.asdict(donation), "took": donation.took},
        "paths": paths.summary(paths.operations(text, device.platform)),
        "loop_nests": [
            dataclasses.asdict(each) for each in paths.loop_nests(text, device.platform)
        ],
        "collectives": {
            "per_step": sent,
            "least": collectives.least(shapes.nets) if mesh.size > 1 else {},
            "weak_scaling": collectives.weak_scaling(
                sent, step["median"], counted.total / mesh.size, settings.link
            )
            if mesh.size > 1
            else [],
            "link": dataclasses.asdict(settings.link),
        },
        "calls": {str(steps): timing.spread(times[f"{steps} a call"]) for steps in settings.calls},
    }


@dataclasses.dataclass(frozen=True)
class Program:
    """A case's step on its way onto devices, some number of steps a call."""

    work: cases.Work
    shapes: Any
    mesh: Any
    settings: Settings
    steps: int

    @property
    def feed(self) -> Any:
        """What one call is fed."""
        return self.work.feed(self.steps)

    def make(self) -> CompiledStep:
        """The step, to be traced in the form that the settings ask for."""
        from jaxnets import ops, parallel

        def step(state: Any, batch: Any) -> Any:
            with ops.plain_convolutions() if self.settings.plain else contextlib.nullcontext():
                return self.work.step(state, batch)

        return parallel.compile_step(
            step,
            self.mesh,
            self.settings.mode,  # type: ignore[arg-type]
            steps_per_call=self.steps,
            shard_params=self.settings.shard_params,
        )

    def compile(self) -> Any:
        """The executable."""
        return self.make().lower(self.shapes, self.feed).compile()

    def runner(self, compiled: Any, state: Any) -> timing.Runner:
        """The executable with a copy of the state, and the feed on the devices."""
        import jax
        import jax.numpy as jnp

        (at_state, at_feed, _), _ = compiled.input_shardings
        feed = jax.device_put(self.make().arrange(self.feed), at_feed)
        state = jax.device_put(jax.tree.map(jnp.copy, state), at_state)
        return timing.Runner(
            compiled,
            state,
            feed,
            None,
            units=self.steps,
            min_seconds=self.settings.min_seconds,
        )


def _shapes(case: cases.Case) -> tuple[cases.Work, Any]:
    """The case's work and the shapes of its state, without computing the state."""
    import jax

    made: list[cases.Work] = []

    def build() -> Any:
        made.append(cases.build(case))
        return made[0].state

    shapes = jax.eval_shape(build)
    return made[0], shapes


@contextlib.contextmanager
def _out_of_memory_is_an_error_of_the_user(case: cases.Case) -> Iterator[None]:
    import jax

    advice = "take a smaller --batch-size, --width or --image-size"
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        reason = str(error).splitlines()[0].removeprefix("RESOURCE_EXHAUSTED: ").rstrip(". ")
        raise UserError(f"{case.name} does not fit into memory ({reason}); {advice}") from error
    except MemoryError as error:
        raise UserError(f"{case.name} does not fit into memory; {advice}") from error
