"""Compiled programs that outlive their process: the same bits, and no mistake that stops a run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from experiments.__main__ import commands
from jaxnets import enable_compilation_cache
from jaxnets.devices import compilation
from jaxnets.errors import UserError

TESTS = Path(__file__).parent

#: Six steps, two in a call and the state donated; prints what they leave.
PROGRAM = """
import json, jax, tiny
import jax.numpy as jnp
from jaxnets import enable_compilation_cache
from jaxnets.devices import parallel
from jaxnets.judge import evaluate

read = []
jax.monitoring.register_event_listener(
    lambda event, **_: read.append(event) if event.endswith("/cache_hits") else None
)
folder = str(enable_compilation_cache())
state, step = tiny.classifier()
mesh = parallel.make_mesh(1)
state = parallel.replicate(state, mesh)
call = parallel.compile_step(step, mesh, steps_per_call=2)
for i in range(3):
    pair = tiny.batch(seed=i), tiny.batch(seed=i + 9)
    feed = jax.tree.map(lambda *leaves: jnp.stack(leaves), *pair)
    before = jax.tree.leaves(state.nets)
    state, _ = call(state, feed)
    donated = all(leaf.is_deleted() for leaf in before)
print(json.dumps([folder, evaluate.digest(state.nets), len(read), donated]))
"""


def python(cache):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_COMPILATION")}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM],
        env={**environment, "JAXNETS_CACHE": str(cache), "PYTHONPATH": f"{TESTS}:{TESTS.parent}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


@pytest.mark.slow
def test_a_program_out_of_the_cache_gives_the_same_bits(tmp_path):
    (folder, cold, hits, _), _ = python(tmp_path)
    kept = {p.name for p in Path(folder).glob("*-cache")}
    assert Path(folder).parent == tmp_path / "compiled" and kept and not hits
    assert Path(folder).stat().st_mode & 0o077 == 0  # nobody else decides what we run
    (_, warm, hits, donated), said = python(tmp_path)
    assert warm == cold and donated and said == ""
    assert hits == len(kept) and {p.name for p in Path(folder).glob("*-cache")} == kept


@pytest.fixture
def unset():
    """JAX as it is where nobody has chosen a folder; the test session's choice comes back."""
    names = ["jax_compilation_cache_dir", *compilation.OPTIONS]
    before = {name: getattr(jax.config, name) for name in names}
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    jax.experimental.compilation_cache.compilation_cache.reset_cache()


def test_a_folder_that_was_chosen_stays(tmp_path):
    before = jax.config.jax_compilation_cache_dir
    assert before and enable_compilation_cache() == Path(before)
    assert jax.config.jax_compilation_cache_dir == before


def test_options_of_the_environment_stand(unset, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_MAX_SIZE", "1000000")
    jax.config.update("jax_compilation_cache_max_size", 1000000)
    assert enable_compilation_cache(tmp_path / "here") == tmp_path / "here"
    assert jax.config.jax_compilation_cache_max_size == 1000000
    assert jax.config.jax_persistent_cache_min_compile_time_secs == 0


def test_what_was_cut_off_is_compiled_again(unset, tmp_path):
    for name in ("whole-cache", "whole-atime", "half-cache", "gone-atime"):
        (tmp_path / name).write_bytes(b"\0" * 8)
    enable_compilation_cache(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} >= {"whole-cache", "whole-atime"}
    assert not {p.name for p in tmp_path.iterdir()} & {"half-cache", "gone-atime"}


@pytest.fixture
def unwritable(tmp_path, monkeypatch):
    """A cache folder that can't be made, for the superuser too."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("JAXNETS_CACHE", str(tmp_path / "file"))
    return tmp_path / "file"


def test_a_folder_that_cannot_be_made_is_one_sentence(unset, unwritable):
    with pytest.raises(UserError, match=f"can't be kept in {unwritable}.*set JAXNETS_CACHE"):
        enable_compilation_cache()
    assert jax.config.jax_compilation_cache_dir is None


@pytest.mark.parametrize("flags", [[], ["--no-compilation-cache"]])
def test_a_command_goes_on_without_it(flags, unset, unwritable, capsys):
    assert commands.main(["sample", "no-such-run", *flags]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("error: there is no run folder no-such-run")
    assert [line.split(":")[0] for line in lines[:-1]] == ([] if flags else ["warning"])
