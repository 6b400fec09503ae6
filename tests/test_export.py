"""Exported networks: they run without this library, on any number of rows, and give the same."""

import contextlib
import json
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnets as jn
from command_lines import assert_one_error
from jaxnets import models
from jaxnets.columns import Classes, Image, Sound, Tokens
from jaxnets.run import export
from jaxnets.run.load import load_run
from jaxnets.run.trained import TrainedClassifier, TrainedGenerator
from model_cases import random_variables, style_variables, untyped

NAMES = ("ant", "bee", "cat")
FACTS = {"model": "net", "weights": "0" * 12, "data": "data", "data_fingerprint": "1" * 16}
PICTURE = Image((16, 16, 3))
SOUND = Sound(8000, 2000)
TEXT = Tokens(tuple("abcdefgh"), 40)

#: (classifier, what it sees) of all kinds.
CLASSIFIERS = [
    *((name, PICTURE) for name in models.CLASSIFIERS),
    *(("resnet_3x2", SOUND), ("m5", SOUND), ("text_cnn", TEXT), ("vdcnn", TEXT)),
]

#: Runs what `exported` wrote with jax alone.
ALONE = """
import json, sys
sys.modules |= dict.fromkeys(["jaxnets", "flax", "optax", "orbax"])  # there are none
import jax, numpy as np
made = {}
for name in sys.argv[1:]:
    program = jax.export.deserialize(bytearray(open(f"{name}.stablehlo", "rb").read()))
    assert program.platforms == ("cpu", "cuda", "tpu")
    arrays = np.load(f"{name}.npz")
    inputs = [arrays[key] for key in json.load(open(f"{name}.json"))["inputs"]]
    for count in (1, 3):
        for key, value in program.call(*[rows[:count] for rows in inputs]).items():
            made[f"{name}/{key}/{count}"] = np.asarray(value)
np.savez("made.npz", **made)
"""


def classifier(name, column):
    module = models.classifier_of(name, column, num_classes=3, width=0.1)
    variables = random_variables(module, jnp.zeros((1, *column.shape), column.dtype))
    columns = {"inputs": column, "target": Classes(NAMES)}
    return TrainedClassifier(module, variables, columns, NAMES, {}, 1, FACTS, {"kind": "net"})


def generator(family, classes=None, **options):
    module = models.make_generator(
        family, image_shape=PICTURE.shape, num_classes=classes, latent_size=5, width=0.1, **options
    )
    inputs = jnp.zeros((1, 5)), None if classes is None else jnp.zeros(1, jnp.int32)
    make = style_variables if family == "stylegan2" else random_variables
    columns = {"inputs": PICTURE, "target": Classes(NAMES)}
    return TrainedGenerator(
        module, make(module, *inputs), columns, NAMES, {}, 1, FACTS, {"kind": "net"}
    )


def rows_for(trained, count=3):
    """What goes in, in the order in which it does."""
    rng = np.random.default_rng(1)
    if isinstance(trained, TrainedClassifier):
        return {"inputs": trained.columns["inputs"].noise(count, 1)}
    latents = rng.normal(size=(count, trained.latent_size)).astype(np.float32)
    labels = {"labels": np.arange(count, dtype=np.int32) % 3} if trained.conditional else {}
    return {"latents": latents, **labels}


def expected(trained, rows):
    """What comes out, of the module itself; rows are decoded, images encoded, by hand."""
    apply = jax.jit(partial(untyped(trained.module).apply, train=False))
    if isinstance(trained, TrainedGenerator):
        images = np.asarray(apply(trained.variables, *rows.values())[0], np.float64)
        return {"images": np.rint((np.clip(images, -1, 1) + 1) * 127.5)}
    scale = {"image": (127.5, 1), "sound": (32768, 0), "tokens": (1, 0)}
    by, less = scale[trained.columns["inputs"].kind]
    inputs = (rows["inputs"] / by - less).astype(trained.columns["inputs"].dtype)
    logits = np.asarray(apply(trained.variables, inputs)[0], np.float64)
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return {"logits": logits, "probabilities": powers / powers.sum(1, keepdims=True)}


def assert_same(made, trained, rows):
    wanted = expected(trained, rows)
    assert set(made) == set(wanted)
    for name, value in wanted.items():
        assert made[name].shape == value.shape, name
        # An image may be rounded the other way; logits of untrained networks can be large.
        slack = 1 if name == "images" else 1e-5 * max(1, np.abs(value).max())
        np.testing.assert_allclose(made[name].astype(np.float64), value, rtol=0, atol=slack)


def test_programs_run_with_jax_alone(tmp_path):
    pytest.importorskip("flatbuffers")
    nets = {"cnn": classifier("lenet5", PICTURE), "gan": generator("dcgan", 3)}
    for name, trained in nets.items():
        (tmp_path / f"{name}.stablehlo").write_bytes(export.export_stablehlo(trained))
        (tmp_path / f"{name}.json").write_text(json.dumps(export.interface(trained)))
        np.savez(tmp_path / f"{name}.npz", **rows_for(trained))
    subprocess.run([sys.executable, "-c", ALONE, *nets], cwd=tmp_path, check=True)
    made = np.load(tmp_path / "made.npz")
    for name, trained in nets.items():
        for count in (1, 3):
            rows = {key: value[:count] for key, value in rows_for(trained).items()}
            outputs = export.interface(trained)["outputs"]
            got = {key: made[f"{name}/{key}/{count}"] for key in outputs}
            assert_same(got, trained, rows)
            for key, told in outputs.items():
                assert (told["shape"][1:], told["type"]) == ([*got[key].shape[1:]], got[key].dtype)


def check_stablehlo(trained, counts=(1, 3)):
    pytest.importorskip("flatbuffers")
    program = jax.export.deserialize(bytearray(export.export_stablehlo(trained)))
    for count in counts:
        rows = rows_for(trained, count)
        made = {key: np.asarray(value) for key, value in program.call(*rows.values()).items()}
        assert_same(made, trained, rows)


def test_sounds_go_in_as_they_are_stored():
    check_stablehlo(classifier("m5", SOUND), counts=[3])  # which heeds how loud they are


@pytest.mark.slow
@pytest.mark.parametrize(("name", "column"), CLASSIFIERS)
def test_every_classifier_is_exported(name, column):
    check_stablehlo(classifier(name, column))


@pytest.mark.slow
@pytest.mark.parametrize("classes", [None, 3])
@pytest.mark.parametrize("family", models.GENERATORS)
def test_every_generator_is_exported(family, classes):
    check_stablehlo(generator(family, classes, attention=(1,)))


def test_a_convolution_of_ours_is_never_exported(monkeypatch):
    pytest.importorskip("flatbuffers")
    monkeypatch.setattr(export.ops, "plain_convolutions", contextlib.nullcontext)
    trained = classifier("lenet5", PICTURE)
    with pytest.raises(jn.UserError, match="net cannot be exported"):
        export.export_stablehlo(trained)


def test_weights_are_read_back_by_name(tmp_path):
    pytest.importorskip("safetensors")
    trained = classifier("speed_net", PICTURE)
    path = tmp_path / "net.safetensors"
    path.write_bytes(export.export_safetensors(trained))
    variables, told = export.read_safetensors(path)
    jax.tree.map(np.testing.assert_array_equal, variables, dict(trained.variables))
    from safetensors.numpy import load_file

    names = load_file(path)
    assert {"params/block1/conv1/kernel", "batch_stats/block1/norm1/mean"} <= set(names)
    assert {"constants/whitening/kernel", "params/head/kernel"} <= set(names)
    assert told["kind"] == "classifier" and told["network"].startswith("SpeedNet(")
    assert json.loads(told["class_names"]) == [*NAMES] and told["step"] == "1"
    image = {"kind": "image", "shape": [16, 16, 3], "background": "white", "qualities": []}
    assert json.loads(told["columns"])["inputs"] == image
    path.write_bytes(b"no such thing")
    with pytest.raises(jn.UserError, match=r"cannot read .*net\.safetensors"):
        export.read_safetensors(path)


def test_the_command_writes_a_program_and_what_it_is(cli, runs, workplace):
    pytest.importorskip("flatbuffers")
    for kind, run in runs.items():
        code, out, err = cli("export", run, "--out", "made/net.hlo")
        assert code == 0, err
        assert "made/net.hlo.json" in out
        program = jax.export.deserialize(bytearray((workplace / "made/net.hlo").read_bytes()))
        about = json.loads((workplace / "made/net.hlo.json").read_text())
        trained = load_run(run)
        rows = {**rows_for(trained, 2)}
        made = {key: np.asarray(value) for key, value in program.call(*rows.values()).items()}
        assert_same(made, trained, rows)
        assert about["class_names"] == [*"0123456789"] and list(about["inputs"]) == list(rows)
        assert about["format"] == "stablehlo" and about["weights"] == trained.facts["weights"]
        assert ("mark" in about) == (kind == "generate")
    assert about["mark"]["synthetic"] is True and about["mark"]["data"] == "digits"


def test_what_cannot_be_exported_is_one_sentence(cli, copies, workplace, monkeypatch):
    (workplace / "folder").mkdir()
    (workplace / "folder.json").write_text("{}")
    run = copies["classify"]
    assert_one_error(cli("export", run, "--out", "folder"), "--out folder is a folder")
    assert_one_error(cli("export", run, "--out", "folder.json/x"), "which is a file")
    assert_one_error(cli("export", run, "--out", "x", "--member", 7), "no member 'seed-7'")
    missing = {"stablehlo": "flatbuffers", "safetensors": "safetensors.numpy", "onnx": "jax2onnx"}
    for form, module in missing.items():
        monkeypatch.setitem(sys.modules, module, None)
        result = cli("export", run, "--out", "x", "--format", form)
        assert_one_error(result, module.split(".")[0], "is not installed: pip install")
    for step in (run / "checkpoints").iterdir():
        step.rename(workplace / step.name)
    assert_one_error(cli("export", run, "--out", "x"), "holds no checkpoint yet")
    assert not (workplace / "x").exists() and not (workplace / "x.json").exists()


@pytest.mark.slow
def test_onnx_models_give_the_same_numbers():
    pytest.importorskip("jax2onnx")
    runtime = pytest.importorskip("onnxruntime")
    nets = [classifier(name, PICTURE) for name in ("lenet5", "speed_net", "resnet18")]
    for trained in [*nets, generator("dcgan"), generator("dcgan", 3)]:
        session = runtime.InferenceSession(export.export_onnx(trained))
        for count in (1, 3):
            rows = rows_for(trained, count)
            made = dict(
                zip(export.interface(trained)["outputs"], session.run(None, rows), strict=True)
            )
            assert_same(made, trained, rows)
            assert [each.name for each in session.get_outputs()] == [*made]


@pytest.mark.slow
def test_onnx_refuses_what_the_converter_gets_wrong(monkeypatch):
    jax2onnx = pytest.importorskip("jax2onnx")
    with pytest.raises(jn.UserError, match="jax2onnx cannot convert net"):
        export.export_onnx(classifier("text_cnn", TEXT))
    convert, other = jax2onnx.to_onnx, classifier("lenet5", PICTURE)
    others = export._network(other)[0]

    def wrong(_, *inputs, **names):
        changed = jax.tree.map(lambda leaf: 1.1 * leaf, other.variables)
        return convert(lambda rows: others(changed, rows), *inputs, **names)

    monkeypatch.setattr(jax2onnx, "to_onnx", wrong)
    with pytest.raises(jn.UserError, match="converts net wrongly: its logits are not"):
        export.export_onnx(other)
