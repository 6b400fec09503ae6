"""Eight virtual CPU devices, strict settings, and short compiles for every test."""

import gc
import os
import shutil
import signal
import tempfile
from importlib.metadata import version

# Before jax is imported: the flags are read once, when the CPU backend starts.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=8"
    # The generated code runs once or a few times: nothing is spent on making it fast.
    + " --xla_backend_optimization_level=0"
    # Nor is it cut into 32 modules, to be compiled by as many processors.
    + " --xla_cpu_parallel_codegen_split_count=1"
    # An unknown flag ends the process, and jax 0.12 has lost this one.
    + (" --xla_cpu_use_fusion_emitters=false" if version("jaxlib") < "0.11" else "")
)

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")

# A shell has the commands that it starts in the background ignore Ctrl-C, and what they start too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Many tests build the same program again (a run and its resumption, say). A cache that lives as
# long as the test session compiles each of them once. To keep a small one and to look for it takes
# longer than to compile it.
_cache = tempfile.TemporaryDirectory(prefix="jaxnets-test-cache-")
jax.config.update("jax_compilation_cache_dir", _cache.name)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def pytest_addoption(parser):
    parser.addoption(
        "--record-golden", action="store_true", help="record the numbers of test_golden.py anew"
    )


# Commands are imported where they are run: most tests do without them.


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """A cache folder of the test session's own, in which digits are prepared once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXNETS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """An empty folder, in which commands run."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def cli(capsys):
    """Runs a command: (exit code, standard output, standard error)."""
    from experiments.__main__ import commands

    def run(*arguments):
        capsys.readouterr()
        try:
            code = commands.main([str(argument) for argument in arguments])
        except SystemExit as left:
            code = left.code
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def quiet():
    """Collects what a failed read or write of Orbax leaves behind (see checkpoint_cases.noisy)."""
    yield
    gc.collect()


@pytest.fixture
def place(workplace):
    """The folder in which commands run, with what the cases name."""
    from hostile_files import furnish

    furnish(workplace)
    return workplace


@pytest.fixture
def refuses(cli, place):
    """Runs a command that must be refused, and leave everything in the folder as it is."""

    from hostile_files import contents

    def run(*arguments, words=()):
        before = contents(place)
        code, _, err = cli(*arguments)
        assert code == 2, err
        assert "Traceback" not in err
        assert contents(place) == before
        last = err.rstrip().splitlines()[-1]
        if not last.startswith("error: "):
            # The parser's own box, which ends with where its help is.
            assert "For full helptext" in err, err
            last = err
        assert all(word in last for word in words), last
        return last

    return run


@pytest.fixture(scope="session")
def runs(cache, tmp_path_factory, worker_id):
    """The run of each command that nothing disturbed; it is not to be written to."""
    import filelock

    from command_lines import CLASSIFY, GENERATE, run

    shared = tmp_path_factory.getbasetemp()
    if worker_id != "master":
        shared = shared.parent  # by all test processes, and the first of them makes the runs
    root = shared / "runs"
    with filelock.FileLock(shared / "runs.lock"):
        for command in (CLASSIFY, GENERATE):
            if not (root / command[0] / "report.html").exists():
                run(command, ["--run-dir", str(root / command[0])])
    return {name: root / name for name in ("classify", "generate")}


@pytest.fixture
def copies(runs, tmp_path):
    """The same runs, to be written to."""
    return {name: shutil.copytree(path, tmp_path / name) for name, path in runs.items()}


@pytest.fixture(scope="session")
def digits(cache):
    """The data set that ships."""
    from jaxnets.data import load

    return load("digits")


@pytest.fixture(scope="session")
def judge(digits):
    """Takes a digit for that of the nearest mean image; its features are the pixels."""
    import numpy as np

    from jaxnets.judge.scoring import Judge

    train = digits.splits["train"]
    flat = train.inputs.reshape(len(train), -1) / 255
    means = np.stack([flat[train.target == c].mean(axis=0) for c in range(10)])

    def look(split):
        pixels = split.inputs.reshape(len(split), -1) / 255
        return 20 * (pixels @ means.T - np.square(means).sum(axis=1) / 2), pixels

    return Judge(look, "mean images", "0123", knows_classes=True)
