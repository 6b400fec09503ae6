"""The PyTorch side of the benchmarks, against the library itself.

All but the first tests need PyTorch, which is not among the packages that the tests install:
without it they are skipped. `pip install "jaxnets[bench]"` brings it.
"""

import statistics
import sys
import types
from functools import lru_cache, partial

import jax
import numpy as np
import pytest

from experiments.benchmarks import torch_rivals
from experiments.benchmarks.cases import ClassifierCase, GanCase, build
from jaxnets import losses, ops
from jaxnets.errors import UserError
from jaxnets.models import dcgan, resnet, resnet_gan
from model_cases import random_variables

LOUD = pytest.mark.filterwarnings("ignore")

TINY = {"batch_size": 4, "image_size": 8, "width": 0.0625}
SNGAN = TINY | {"family": "sngan", "loss": "hinge"}
R3GAN = TINY | {"family": "r3gan", "width": 0.03, "loss": "relativistic", "penalty": "r1_r2"}


def test_without_torch_one_sentence_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match=r'pip install "jaxnets\[bench\]"'):
        torch_rivals.compare(ClassifierCase(**TINY))


def test_an_old_torch_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(__version__="1.13.1+cpu"))
    with pytest.raises(UserError, match=r"version 2.9 or later, and 1\.13\.1"):
        torch_rivals.compare(ClassifierCase(**TINY))


def test_too_few_rounds_are_refused():
    with pytest.raises(UserError, match="4 rounds"):
        torch_rivals.compare(ClassifierCase(**TINY), rounds=4)


def test_threads_that_never_sleep_are_refused(monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    with pytest.raises(UserError, match="OMP_WAIT_POLICY=active"):
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


@pytest.mark.parametrize(
    "case",
    [
        GanCase(**TINY, discriminator="resnet_3x2", penalty="r1"),
        ClassifierCase(**TINY, network="lenet5"),
        GanCase(**TINY, penalty="dragan"),
    ],
    ids=["penalty on BatchNorm", "no twin", "no such penalty"],
)
def test_what_has_no_equal_in_torch(case, check):
    words = r"add --penalty none|choose from resnet_3x2.* and r3gan|--penalty dragan has no twin"
    with pytest.raises(UserError, match=words):
        check.twins(build(case))


def test_the_large_stem_pads_as_ours(torch):
    from experiments.benchmarks.torch_networks import make_twin

    shape = (130, 128, 1)  # 65 x 64 where it is pooled: odd and even
    model = resnet.ResNet(5, blocks=(1,), widths=(4,), large_stem=True)
    images = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    variables = random_variables(model, images)
    twin = make_twin(model, variables, shape).eval()
    with ops.plain_convolutions():
        ours, _ = jax.jit(partial(model.apply, train=False))(variables, images)
    with torch.no_grad():
        theirs = twin(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    np.testing.assert_allclose(theirs, ours, atol=1e-4)


def test_running_statistics_move_as_ours(torch):
    from experiments.benchmarks.torch_networks import make_twin

    model = dcgan.Discriminator(width=4, norm="batch")
    images = np.random.default_rng(0).normal(size=(6, 8, 8, 1)).astype(np.float32)
    variables = random_variables(model, images)
    twin = make_twin(model, variables, (8, 8, 1))
    twin(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    _, after = model.apply(variables, images, train=True, mutable=["batch_stats"])
    before, after = variables["batch_stats"]["norm2"], after["batch_stats"]["norm2"]
    np.testing.assert_allclose(twin.norm2.running_mean, after["mean"], atol=1e-5)
    # torch's running variance is that of a sample: count / (count - 1) times ours.
    count = 6 * 4 * 4
    moved = 0.9 * before["var"] + (after["var"] - 0.9 * before["var"]) * count / (count - 1)
    np.testing.assert_allclose(twin.norm2.running_var, moved, rtol=1e-5)


@pytest.mark.parametrize("classes", [None, 3])
def test_vectors_of_spectral_norm_move_as_ours(classes, torch):
    from experiments.benchmarks.torch_layers import SpectralNorm, keep_vectors
    from experiments.benchmarks.torch_networks import make_twin

    model = resnet_gan.Discriminator(classes, widths=(4, 6), halvings=1)
    rng = np.random.default_rng(0)
    images = rng.normal(size=(6, 8, 8, 1)).astype(np.float32)
    labels = () if classes is None else (np.arange(6) % classes,)
    variables = random_variables(model, images, *labels)
    # Vectors that are far from where they go, so that every half step of the iteration shows.
    vectors = jax.tree.map(
        lambda u: rng.normal(size=u.shape).astype(np.float32), variables["spectral_norm"]
    )
    variables = {**variables, "spectral_norm": vectors}
    twin = make_twin(model, variables, (8, 8, 1))
    inputs = [torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), *map(torch.from_numpy, labels)]
    for _ in range(2):  # the vectors move once a step, however often the network is passed
        twin(*inputs)
    keep_vectors(twin)
    _, after = model.apply(variables, images, *labels, train=True, mutable=["spectral_norm"])
    expected = make_twin(model, variables | dict(after), (8, 8, 1))
    moved = [part for part in twin.modules() if isinstance(part, SpectralNorm)]
    wanted = [part for part in expected.modules() if isinstance(part, SpectralNorm)]
    assert len(moved) == (7 if classes is None else 8)
    for ours, theirs in zip(wanted, moved, strict=True):
        np.testing.assert_allclose(theirs.u, ours.u, atol=1e-5)


@pytest.mark.parametrize("name", losses.ADVERSARIAL_LOSSES)
def test_losses_are_ours(name, torch):
    from experiments.benchmarks.torch_steps import LOSSES

    rng = np.random.default_rng(0)
    real, fake = (3 * rng.normal(size=20).astype(np.float32) for _ in range(2))
    ours, theirs = losses.adversarial_loss(name), LOSSES[name]
    logits = torch.from_numpy(real), torch.from_numpy(fake)
    np.testing.assert_allclose(theirs.d_loss(*logits), ours.d_loss(real, fake), atol=1e-5)
    np.testing.assert_allclose(theirs.g_loss(*logits), ours.g_loss(real, fake), atol=1e-5)
    other = ours.g_loss(real + 1, fake)
    assert theirs.paired == bool(np.abs(other - ours.g_loss(real, fake)).max() > 0)


built = lru_cache(build)


@lru_cache
def stepped(check, torch, case, name, joined=False):
    """All parameters after two steps of torch in one form, with fixed latents."""
    from experiments.benchmarks import torch_steps

    form, device = torch_steps.FORMS[name], torch.device("cpu")
    work = build(case)
    made = {key: torch_steps.place(twin, form, device) for key, twin in check.twins(work).items()}
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, case.batch_size, 64, generator=generator)
    step = check.twin_step(case, made, form, device, joined=joined, draw=lambda count: latents)
    images = torch_steps.place_images(work.batch["inputs"], form, device)
    labels = torch_steps.place_labels(work.batch["target"], device)
    for _ in range(2):
        step(images, labels)
    return [
        value.detach().numpy() for key in sorted(made) for value in made[key].state_dict().values()
    ]


@pytest.mark.parametrize("penalty", ["none", "r1", "r2", "r1_r2"])
@pytest.mark.parametrize(
    "name,joined",
    [
        ("eager", True),
        ("channels_last", False),
        # torch warns of what it does itself while it compiles.
        pytest.param("compile", True, marks=[pytest.mark.slow, LOUD]),
        pytest.param("compile", False, marks=[pytest.mark.slow, LOUD]),
    ],
)
def test_the_forms_of_torch_make_the_same_steps(penalty, name, joined, check, torch):
    case = GanCase(**TINY, penalty=penalty, conditional=True)
    expected = stepped(check, torch, case, "eager")
    found = stepped(check, torch, case, name, joined)
    for a, b in zip(found, expected, strict=True):
        # A gradient near zero, whose sign is rounding, moves a weight by a whole rate.
        assert np.mean(np.abs(a - b) > 1e-5) < 0.01
        np.testing.assert_allclose(a, b, atol=1e-3)


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


def test_a_gan_keeps_the_faster_pass_of_its_discriminator(check, torch, monkeypatch):
    monkeypatch.setattr(torch_rivals, "WINDOW", 1e-3)
    made = []

    def competitor(work, name, device, *, joined):
        seconds = iter([3.0, 3.0, 3.0] if joined else [2.0, 4.0, 4.0])
        made.append(types.SimpleNamespace(window=lambda: next(seconds)))
        return made[-1]

    monkeypatch.setattr(torch_rivals, "_rival_step", competitor)
    _, way = torch_rivals._rival(built(GanCase(**TINY)), "eager", torch.device("cpu"))
    assert way == "joined" and len(made) == 2
    # BatchNorm's statistics must not mix reals and fakes: there is only one way.
    norms = GanCase(**TINY, discriminator="resnet_3x2")
    assert torch_rivals._rival(build(norms), "eager", torch.device("cpu"))[1] == "apart"
