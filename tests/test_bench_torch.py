"""The PyTorch side of the benchmarks, against the library itself.

All but the first tests need PyTorch, which is not among the packages that the tests install:
without it they are skipped. `pip install "jaxnets[bench]"` brings it.
"""

import statistics
import sys
from functools import partial

import jax
import pytest

from experiments.benchmarks import torch_rivals
from experiments.benchmarks.cases import ClassifierCase, GanCase
from jaxnets import ops
from jaxnets.errors import UserError
from jaxnets.models import resnet

TINY = {"batch_size": 4, "image_size": 8, "width": 0.0625}
SNGAN = TINY | {"family": "sngan", "loss": "hinge"}
R3GAN = TINY | {"family": "r3gan", "width": 0.03, "loss": "relativistic", "penalty": "r1_r2"}


def test_without_torch_one_sentence_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match=r'pip install "jaxnets\[bench\]"'):
        torch_rivals.compare(ClassifierCase(**TINY))


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.fixture
def check(torch, monkeypatch):
    """The module that compares, and ResNets of two blocks to compare.

    With XLA's own convolutions, which compile faster; ours are held against them elsewhere.
    """
    from experiments.benchmarks import torch_check

    for name, block in (("resnet_3x2", resnet.BasicBlock), ("resnet50", resnet.Bottleneck)):
        monkeypatch.setitem(resnet.RESNETS, name, ((1, 1), (64, 128), block))
    with ops.plain_convolutions():
        yield torch_check


def agree(check, torch, case):
    return check.agreement(case, torch.device("cpu"))


@pytest.mark.parametrize(
    "case",
    [
        ClassifierCase(**TINY, network="resnet_3x2"),
        ClassifierCase(**TINY, network="speed_net"),
        pytest.param(
            ClassifierCase(**TINY | {"image_size": 33}, network="efficientnet_lite0", channels=3),
            marks=pytest.mark.slow,
        ),
        GanCase(**TINY | {"image_size": 9}, conditional=True, penalty="r1"),
        pytest.param(
            ClassifierCase(**TINY, network="resnet50", channels=3), marks=pytest.mark.slow
        ),
        pytest.param(GanCase(**TINY, penalty="r2", channels=3), marks=pytest.mark.slow),
        pytest.param(
            GanCase(**TINY, discriminator="resnet_3x2", conditional=True), marks=pytest.mark.slow
        ),
        pytest.param(GanCase(**TINY, discriminator="speed_net", seed=1), marks=pytest.mark.slow),
        GanCase(**SNGAN | {"image_size": 9}, conditional=True),
        GanCase(**R3GAN | {"image_size": 9}, conditional=True),
        *(
            pytest.param(
                GanCase(**shape | {"image_size": size, "channels": channels}, conditional=classes),
                marks=pytest.mark.slow,
            )
            for shape in (SNGAN, R3GAN)
            for size, channels in ((28, 1), (32, 3))
            for classes in (False, True)
        ),
        pytest.param(
            GanCase(**SNGAN, penalty="r1_r2", discriminator="r3gan"), marks=pytest.mark.slow
        ),
        pytest.param(GanCase(**SNGAN, penalty="r1"), marks=pytest.mark.slow),
    ],
    ids=lambda case: f"{case.name}{' classes' if getattr(case, 'conditional', False) else ''}",
)
def test_twins_compute_the_same_outputs_and_the_same_step(case, check, torch):
    found = agree(check, torch, case)
    assert found.outputs < 1e-5
    assert found.step < 1e-3


def test_a_step_that_differs_is_not_timed(check, torch, monkeypatch):
    from experiments.benchmarks import torch_steps

    monkeypatch.setattr(torch_steps, "nesterov", partial(torch_steps.nesterov, momentum=0.8))
    case = ClassifierCase(**TINY, network="resnet_3x2")
    found = agree(check, torch, case)
    assert found.outputs < 1e-5
    with pytest.raises(UserError, match=r"updates after one step .* differ by .*nothing is timed"):
        check.insist(case, found)


def test_compare_gives_pairs_of_both_sides(check, monkeypatch):
    from experiments.benchmarks import torch_steps

    def fail(*_):
        raise RuntimeError("no C++ compiler\nmore of it")

    monkeypatch.setattr(torch_rivals, "WINDOW", 1e-3)
    monkeypatch.setattr(torch_rivals, "PAUSE", 0)
    monkeypatch.setattr(torch_steps, "compiled", fail)
    case = ClassifierCase(**TINY, network="speed_net")
    found = torch_rivals.compare(case, rounds=5, devices=2, steps_per_call=2)
    assert found["rivals"]["compile"] == "RuntimeError: no C++ compiler"
    assert found["rival"] in ("eager", "channels_last")
    others = [found["rivals"][name] for name in ("eager", "channels_last")]
    assert all(len(times) == 5 and min(times) > 0 for times in (found["ours"], *others))
    best = found["rivals"][found["rival"]]
    assert statistics.median(best) == min(statistics.median(times) for times in others)
    ratios = [a / b for a, b in zip(found["ours"], best, strict=True)]
    assert found["ratio"] == statistics.median(ratios)
    assert (found["ratio_min"], found["ratio_max"]) == (min(ratios), max(ratios))
    assert found["outputs_max_error"] < 1e-5 > 0
    assert found["step_max_error"] < 1e-3
    assert found["versions"]["jax"] == jax.__version__
    assert found["threads"] >= 1
