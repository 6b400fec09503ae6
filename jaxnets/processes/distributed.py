"""Several processes, on one machine or many, that train one run.

`start` comes before anything that asks jax for its devices. From then on jax knows the devices of
all processes, and the functions below let the processes agree on what each of them sees by itself:
what is on disk, which signals came, who is still there. In an ordinary process, which never called
`start`, they do nothing.

With the same JAXNETS_SECRET in the environment of all, only processes that know it can join; jax's
coordination service is reached through their lines alone. After that nothing is signed or
encrypted, so the network between them must be one in which nobody changes what others send. Not
covered at all are the connections over which arrays go between devices (gloo on CPUs, NCCL on
GPUs): those libraries open ports of their own. Without a secret, processes must be on one machine
or in one private network, and whoever reaches the port while they meet can join.
"""

import contextlib
import importlib.metadata
import logging
import math
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from jaxnets import __version__
from jaxnets.errors import UserError
from jaxnets.processes.door import Hello
from jaxnets.processes.lines import own_secret
from jaxnets.processes.meeting import meet
from jaxnets.processes.peers import Peers
from jaxnets.processes.relay import relayed

__all__ = [
    "agree",
    "asked_to_leave",
    "count",
    "end",
    "fail",
    "gather",
    "index",
    "on_first",
    "pause",
    "pausing",
    "start",
    "when_asked",
    "writes",
]

T = TypeVar("T")

_peers: Peers | None = None
_at_pause: Callable[[], None] | None = None

#: jax's own watch only ends processes, with a stack trace; ours is to be the first by far.
_JAX_HEARTBEAT_SECONDS = 100
_JAX_END_SECONDS = 30


def start(
    coordinator: str | None = None,
    process_count: int | None = None,
    process_id: int | None = None,
    *,
    timeout: float = 120.0,
    config: Mapping[str, Any] | None = None,
    hint: Callable[[], str] = lambda: "",
) -> None:
    """Makes this process one of several that work on one run.

    What is None is taken from the cluster, where jax knows it (Cloud TPU, Slurm, Kubernetes, Open
    MPI).

    Args:
      coordinator: "host:port"; process 0 runs on that host and listens on that port.
      process_count: how many processes there are.
      process_id: which of them this is, from 0.
      timeout: seconds that each waits for the others to come; those that came before process 0 wait
        as long again for its answer.
      config: what this process was told to do, as JSON types. It must be the same in all.
      hint: what to add to the news, in the middle of the run, that a process is gone.

    Raises:
      UserError: in every process, if they do not all come, or are not those of one run; in one with
        another JAXNETS_SECRET, or with none and a coordinator on a public network.
    """
    global _peers
    import jax

    if _peers is not None:
        raise UserError("this process has been made one of several already")
    if not (math.isfinite(timeout) and timeout > 0):
        raise UserError(f"the timeout must be above 0 seconds, got {timeout:g}")
    coordinator, process_count, process_id, local = _place(
        coordinator, process_count, process_id, timeout
    )
    versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax")}
    own = Hello(
        index=process_id,
        count=process_count,
        name=f"process {os.getpid()} of {socket.gethostname()}",
        setup={"jaxnets": __version__, **versions, **(config or {})},
    )
    peers = Peers(process_id, *meet(coordinator, own, timeout, own_secret()))
    peers.hint = hint
    # jax warns of variables that name a proxy, which gRPC does not ask on the way to a Unix socket.
    logging.getLogger("jax._src.distributed").setLevel(logging.ERROR)
    with _own_handler_of_sigterm(), relayed(peers, timeout) as place:
        peers.start()
        _peers = peers
        jax.distributed.initialize(
            place,
            process_count,
            process_id,
            local_device_ids=local,
            cluster_detection_method="deactivate",
            coordinator_bind_address=place,
            initialization_timeout=math.ceil(timeout),
            heartbeat_timeout_seconds=_JAX_HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=_JAX_END_SECONDS,
        )


def _place(
    coordinator: str | None, process_count: int | None, process_id: int | None, timeout: float
) -> tuple[str, int, int, list[int] | None]:
    """Coordinator, count, number and local devices, asked of the cluster where they are None."""
    local = None
    if None in (coordinator, process_count, process_id):
        # Not public, but what jax.distributed.initialize itself calls for values not given. Asked
        # here because the processes must meet before jax's own start, which can't say what failed.
        from jax._src.clusters import ClusterEnv

        try:
            coordinator, process_count, process_id, local = (
                ClusterEnv.auto_detect_unset_distributed_params(
                    coordinator, process_count, process_id, None, None, math.ceil(timeout)
                )
            )
        except Exception as error:  # whatever a metadata server or its client raises
            raise UserError(
                f"the cluster that this process runs in cannot be asked for its processes: "
                f"{type(error).__name__}: {error}; give --coordinator, --process-count and "
                "--process-id"
            ) from error
    if coordinator is None or process_count is None or process_id is None:
        raise UserError(
            "--distributed finds no cluster here (Cloud TPU, Slurm, Kubernetes) that tells which "
            "processes there are; give --coordinator, --process-count and --process-id"
        )
    if process_count < 1:
        raise UserError(f"--process-count must be at least 1, got {process_count}")
    if not 0 <= process_id < process_count:
        raise UserError(
            f"--process-id must be in 0..{process_count - 1} with --process-count "
            f"{process_count}, got {process_id}"
        )
    return coordinator, process_count, process_id, None if local is None else list(local)


@contextlib.contextmanager
def _own_handler_of_sigterm() -> Iterator[None]:
    """Puts the handler back that jax's start replaces by one that ends nothing."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread() and before is not None:
            signal.signal(signal.SIGTERM, before)


def count() -> int:
    """How many processes work on the run."""
    return 1 if _peers is None else _peers.count


def index() -> int:
    """The number of this process, from 0."""
    return 0 if _peers is None else _peers.index


def writes() -> bool:
    """Whether this is the process that writes logs, reports and whatever else is not arrays."""
    return index() == 0


def gather(value: T) -> list[T]:
    """The values of all processes, by their numbers; all must call it, in the same order.

    Args:
      value: of JSON types.
    """
    return [value] if _peers is None else _peers.gather(value)


def agree(value: T) -> T:
    """The value of process 0; all must call it, in the same order.

    Args:
      value: of JSON types; what the others give is of no account.
    """
    return gather(value)[0]


def on_first(make: Callable[[], T]) -> T:
    """What a function gives in process 0, without calling it in the others.

    Args:
      make: gives JSON types.

    Raises:
      UserError: in every process, if it raises one.
    """
    if _peers is None:
        return make()
    result, wrong = None, None
    if index() == 0:
        try:
            result = make()
        except UserError as error:
            wrong = str(error)
    result, wrong = agree([result, wrong])
    if wrong is not None:
        raise UserError(wrong)
    return result  # type: ignore[return-value]


def ask_to_leave(signum: int) -> None:
    """Makes all processes leave for a signal that came to this one; may be called in any thread."""
    if _peers is not None:
        _peers.ask_to_stop(signum)


def when_asked(call: Callable[[int], None]) -> None:
    """Has a function called with the signal, in a thread, when the processes are asked to leave."""
    if _peers is not None:
        _peers.on_stop = call


def asked_to_leave() -> int:
    """The signal that all processes leave for here, or 0; all must call it, in the same order."""
    return 0 if _peers is None else _peers.pass_point()


@contextlib.contextmanager
def pausing(call: Callable[[], None]) -> Iterator[None]:
    """Has a function called at every `pause` in the block; it may leave the block by an error."""
    global _at_pause
    _at_pause = call
    try:
        yield
    finally:
        _at_pause = None


def pause() -> None:
    """Called between the parts of long work, by all processes alike: where it may be cut off."""
    if _at_pause is not None:
        _at_pause()


def end(code: int, sentence: str = "", *, together: bool) -> None:
    """The end of this process's part; does not return if the other processes are to go on or fail.

    Args:
      code: its exit code.
      sentence: why, where it fails; for the others.
      together: whether all processes come to this end, in the same way. If not, the others are
        told, and end too.
    """
    global _peers
    if _peers is None:
        return
    if together:
        import jax

        _peers.finish()
        jax.distributed.shutdown()
        _peers = None
        return
    fail(code, sentence)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # an ordinary exit would wait for the others at jax's own last barrier


def fail(code: int, sentence: str) -> None:
    """Tells the other processes, if there are any, that this one ends, with which code, and why."""
    if _peers is not None:
        _peers.fail(code, sentence)
