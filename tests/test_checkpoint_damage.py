"""Hundreds of checkpoints, each damaged in a way of its own: none is loaded as good."""

import collections
import random
import shutil

import jax
import numpy as np
import pytest

from checkpoint_cases import noisy, plain, state
from experiments.chaos.damage import ALONE, DAMAGES, damage
from jaxnets.errors import UserError
from jaxnets.run.checkpoint import Checkpoints


@noisy
@pytest.mark.parametrize(
    "count", [36, pytest.param(200, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_what_is_damaged_is_never_loaded_as_good(count, tmp_path, quiet):
    pristine, folder = tmp_path / "pristine", tmp_path / "c"
    with Checkpoints(pristine) as checkpoints:
        for step in (4, 6):
            checkpoints.save(state(step), {"step": step})
    good = {step: plain(state(step)) for step in (4, 6)}
    rng = random.Random(count)
    outcomes = collections.Counter()
    for number in range(count):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(pristine, folder)
        kind = list(DAMAGES)[number // 2 % len(DAMAGES)]
        # Every other time both, so that no good one is left to hide behind.
        for step in (4, 6) if number % 2 and kind in ALONE else (6,):
            damage(kind, folder, step, rng)
        with Checkpoints(folder) as checkpoints:
            try:
                restored, notes = checkpoints.restore(state())
            except UserError:
                outcomes["refused"] += 1
                continue
        step = int(restored.step)
        assert notes == {"step": step}
        jax.tree.map(np.testing.assert_array_equal, plain(restored), good[step])
        outcomes[step] += 1
    assert outcomes["refused"] > count // 5 and outcomes[4] > count // 4
    assert outcomes[6] <= count // 6  # what Orbax notes down beside the arrays is not read
