"""A run that was begun on eight devices goes on on fewer, by either way onto them."""

import shutil

import jax
import numpy as np
import pytest

from small_runs import TOTAL, Crash, bits, crash, fit, records, task

#: Sums in another order: what float32 leaves of six steps from losses and parameters around one.
TOLERANCE = 1e-5

LOSSES = {"classifier": ["loss", "accuracy"], "gan": ["d_loss", "g_loss", "penalty"]}


@pytest.fixture(scope="module", params=["classifier", pytest.param("gan", marks=pytest.mark.slow)])
def kind(request):
    """The name of a task; a module's tests of one come together."""
    return request.param


@pytest.fixture(scope="module")
def begun(kind, tmp_path_factory):
    """(folder and result of the run that nothing disturbed, folder of one cut off after step 4).

    Both on eight devices, by jit.
    """
    root = tmp_path_factory.mktemp(kind)
    whole = fit(task(kind), root / "whole", devices=8)
    with pytest.raises(Crash):
        fit(task(kind, at=4, fault=crash), root / "cut", devices=8)
    return root / "whole", whole, root / "cut"


def curves(kind, folder):
    shown = records(folder, "train")
    assert [record["step"] for record in shown] == [2, 4, 6, 8, 10]
    return np.array([[record[name] for name in LOSSES[kind]] for record in shown])


def go_on(kind, begun, folder, devices, mode):
    """How far a run that goes on on other devices comes off: (losses, parameters, same bits)."""
    undisturbed, whole, cut = begun
    shutil.copytree(cut, folder)
    found = fit(task(kind), folder, devices=devices, mode=mode)
    assert int(found.state.step) == TOTAL
    assert all(len(leaf.devices()) == devices for leaf in jax.tree.leaves(found.state.nets))
    losses = np.abs(curves(kind, folder) - curves(kind, undisturbed))
    assert losses[:2].max() == 0  # written before the run was cut off
    nets = zip(*(jax.tree.leaves(of.state.nets) for of in (found, whole)), strict=True)
    off = max(float(np.abs(np.asarray(a) - np.asarray(b)).max()) for a, b in nets)
    return losses.max(), off, bits(found.state) == bits(whole.state)


@pytest.mark.parametrize("mode", ["jit", pytest.param("pmap", marks=pytest.mark.slow)])
def test_on_the_same_devices_it_is_the_same_run(mode, kind, begun, tmp_path):
    """To the bit by jit; by pmap the program is another one."""
    losses, off, same = go_on(kind, begun, tmp_path / "run", 8, mode)
    print(f"{kind}, 8 devices by jit, then by {mode}: losses {losses:.1e}, parameters {off:.1e}")
    assert max(losses, off) < TOLERANCE
    assert same or mode == "pmap"


SLOW = pytest.mark.slow
OTHERS = [
    pytest.param(devices, mode, marks=[SLOW] * ((devices, mode) != (1, "jit")))
    for devices in (1, 2, 4)
    for mode in ("jit", "pmap")
]


@pytest.mark.parametrize("devices,mode", OTHERS)
def test_on_fewer_devices_it_follows_the_same_curve(devices, mode, kind, begun, tmp_path):
    losses, off, _ = go_on(kind, begun, tmp_path / "run", devices, mode)
    print(f"{kind}, 8 devices, then {devices} by {mode}: losses {losses:.1e}, parameters {off:.1e}")
    assert max(losses, off) < TOLERANCE
