"""`inspect` and its methods: what is learnt, the threshold, the folder's layout, its use."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image as Pillow
from scipy.spatial.distance import cdist

from jaxnets.columns import Image
from jaxnets.data import Split
from jaxnets.data.sources.inspection import load_inspection, parts_of, starts
from jaxnets.errors import UserError
from jaxnets.judge import inspection
from jaxnets.models.inspectors import make_inspector
from jaxnets.run.load import load_run

SIDE = 32
NETWORK = {"name": "resnet_3x2", "num_classes": 2, "width": 0.125}
SEEN = {
    "backbone": NETWORK,
    "backbone_size": [SIDE, SIDE],
    "layers": ["stage2", "stage3"],
    "grid": [8, 8],
    "size": 24,
}
METHODS = {
    "padim": {**SEEN, "channels": 10},
    "patchcore": {**SEEN, "bank": inspection.bank_size(24, 64, 24, 0.1)},
    "f-anogan": {"patch": 16, "latent_size": 4, "width": 0.1, "kappa": 1.0},
}


def pictures(count, seed=0, fault=False):
    """Stripes with noise, and a bright square on faulty ones; [N, 32, 32, 3] uint8."""
    draws = np.random.default_rng(seed)
    rows = 90 + 60 * (np.arange(SIDE) // 4 % 2)[None, :, None, None]
    rows = rows + draws.normal(0, 6, (count, SIDE, SIDE, 1))
    if fault:
        rows[:, 18:26, 10:18] += 90
    return np.broadcast_to(rows, (count, SIDE, SIDE, 3)).clip(0, 255).astype(np.uint8)


def learnt(name):
    """A module and what it has learnt of 24 pictures; of f-AnoGAN its first weights."""
    module = make_inspector(name, Image((SIDE, SIDE, 3)), num_classes=None, **METHODS[name])
    example, train = jnp.zeros((1, SIDE, SIDE, 3)), Split(pictures(24))
    variables = jax.jit(lambda key: module.init(key, example, train=False))(jax.random.key(1))
    if name == "padim":
        return module, inspection.learn_padim(module, variables, train, 0)
    if name == "patchcore":
        return module, inspection.learn_patchcore(module, variables, train, 0, 0.1)
    return module, variables


@pytest.fixture(scope="module", params=list(METHODS))
def inspector(request):
    return request.param, *learnt(request.param)


def test_the_score_of_a_picture_does_not_depend_on_its_companions(inspector):
    _, module, variables = inspector
    some = np.concatenate([pictures(5, 9), pictures(4, 8, fault=True)])
    together = inspection.score(module, variables, Split(some), 9)
    for i in (0, 8):
        alone = inspection.score(module, variables, Split(some[i : i + 1]), 1)
        np.testing.assert_allclose(alone.scores[0], together.scores[i], rtol=1e-5)
        np.testing.assert_allclose(alone.maps[0], together.maps[i], rtol=1e-4, atol=1e-4)


def test_a_fault_is_told_and_found_where_it_is(inspector):
    name, module, variables = inspector
    if name == "f-anogan":
        pytest.skip("not trained here")
    good, bad = (
        inspection.score(module, variables, Split(pictures(12, 5, fault=f))) for f in (False, True)
    )
    assert good.scores.max() < bad.scores.min()
    for heat in bad.maps:
        y, x = np.unravel_index(heat.argmax(), heat.shape)
        assert 16 <= y < 28 and 8 <= x < 20


def embedded(module, variables, images, how):
    return np.asarray(
        inspection._embedder(module, how)(variables, Image((SIDE, SIDE, 3)).decode(images))
    )


def test_padim_is_the_mahalanobis_distance_of_every_position():
    module, variables = learnt("padim")
    train = embedded(module, variables, pictures(24), "embed").astype(np.float64)
    test = embedded(module, variables, pictures(1, 7, fault=True), "embed")[0]
    _, small = module.apply(
        variables,
        Image((SIDE, SIDE, 3)).decode(pictures(1, 7, fault=True)),
        method=lambda m, x: m.method(x),
    )
    for place in (0, 27, 63):
        covariance = np.cov(train[:, place].T, bias=True)
        covariance += 0.01 * np.trace(covariance) / 10 * np.eye(10)
        apart = test[place] - train[:, place].mean(axis=0)
        wanted = np.sqrt(apart @ np.linalg.solve(covariance, apart))
        assert float(np.asarray(small).ravel()[place]) == pytest.approx(wanted, rel=1e-3)


def test_patchcore_is_the_distance_to_the_nearest_patch_of_the_bank():
    module, variables = learnt("patchcore")
    images = pictures(2, 7, fault=True)
    bank = variables["memory"]["method"]["bank"]
    scores, small = module.apply(
        variables, Image((SIDE, SIDE, 3)).decode(images), method=lambda m, x: m.method(x)
    )
    patches = embedded(module, variables, images, "embed")
    for picture, heat, score in zip(patches, np.asarray(small), scores, strict=True):
        distances = cdist(picture, bank)
        np.testing.assert_allclose(heat.ravel(), distances.min(axis=1), rtol=1e-3)
        worst = distances.min(axis=1).argmax()
        member = bank[distances[worst].argmin()]
        around = bank[np.argsort(cdist(member[None], bank)[0])[:9]]
        others = np.exp(cdist(picture[worst][None], around)[0].astype(np.float64))
        weight = 1 - np.exp(distances[worst].min()) / others.sum()
        assert float(score) == pytest.approx(weight * distances[worst].min(), rel=1e-2)


def test_a_coreset_covers_better_than_chance_and_takes_no_point_twice():
    points = np.random.default_rng(0).normal(size=(500, 3)) ** 3
    kept = inspection.k_centre(points, 25, 7)
    assert kept[0] == 7 and len(set(kept.tolist())) == 25
    reach = cdist(points, points[kept]).min(axis=1).max()
    chance = np.random.default_rng(1).permutation(500)[:25]
    assert reach < 0.5 * cdist(points, points[chance]).min(axis=1).max()
    # Each is as far from those before it as any point.
    for i in (3, 24):
        far = cdist(points, points[kept[:i]]).min(axis=1)
        assert far[kept[i]] == pytest.approx(far.max(), rel=1e-4)


def test_the_threshold_keeps_its_promise_and_falls_back_to_the_highest_score():
    draws = np.random.default_rng(0)
    above = [
        (draws.normal(size=400) > inspection.threshold(draws.normal(size=199), 0.05)).mean()
        for _ in range(200)
    ]
    assert 0.04 < np.mean(above) < 0.055
    assert inspection.threshold(np.arange(20.0), 0.01) == 19


def test_pixels_are_measured_by_fault_too():
    labels, masks = np.array([0, 1, 2]), np.zeros((3, 4, 4), bool)
    masks[1:, :2] = True
    maps = masks.astype(np.float32)
    maps[2] = 0.0  # nothing is found of the second fault
    scored = inspection.Scored(np.arange(3.0), maps)
    numbers = inspection.measure(
        scored, labels, ("good", "seen", "missed"), 0.5, (np.arange(3), masks)
    )
    assert numbers["pixel_auroc/seen"] == 1.0 and numbers["pixel_auroc/missed"] == 0.5
    assert numbers["pixel_auroc"] == pytest.approx(0.75)


def test_windows_cover_an_axis_and_parts_are_cut_at_them():
    assert starts(33, 16, 8) == [0, 8, 16, 17] and starts(16, 16, 8) == [0]
    images = pictures(3)
    parts = parts_of(images, 16, 16, 5, 0).inputs
    assert parts.shape == (5, 16, 16, 3)
    every = [images[n, y : y + 16, x : x + 16] for n in range(3) for y in (0, 16) for x in (0, 16)]
    assert all(any((part == one).all() for one in every) for part in parts)


# ------------------------------------------------------------------------- folders


def write(folder, images, size=None):
    folder.mkdir(parents=True)
    for i, image in enumerate(images):
        picture = Pillow.fromarray(image)
        (picture if size is None else picture.resize(size)).save(folder / f"{i:03}.png")


@pytest.fixture
def tiles(tmp_path):
    """As MVTec AD is laid out, in two sizes, with masks."""
    root = tmp_path / "tiles"
    write(root / "train/good", pictures(20))
    write(root / "test/good", pictures(6, 1), (20, 40))
    write(root / "test/spot", pictures(4, 2, fault=True), (40, 20))
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[18:26, 10:18] = 255
    (root / "ground_truth/spot").mkdir(parents=True)
    for i in range(4):
        picture = Pillow.fromarray(mask).resize((40, 20), Pillow.Resampling.NEAREST)
        picture.save(root / f"ground_truth/spot/{i:03}_mask.png")
    return root


def test_a_folder_as_mvtec_has_it(tiles):
    loaded = load_inspection(f"folder:{tiles}", image_size=(SIDE, SIDE))
    train, test = (loaded.dataset.splits[name] for name in ("train", "test"))
    assert loaded.dataset.class_names == ("good", "spot")
    assert len(train) == 20 and test.target.tolist() == [0] * 6 + [1] * 4
    rows, masks = loaded.masked()
    assert rows.tolist() == list(range(10)) and not masks[:6].any()
    assert masks[6].mean() == pytest.approx(64 / SIDE**2, rel=0.3)
    assert masks[6, 20, 12] and not masks[6, 5, 5]
    assert any("distorts" in note for note in loaded.dataset.notes)


def test_a_folder_with_good_ones_and_faults_beside_them(tmp_path):
    write(tmp_path / "good", pictures(20))
    write(tmp_path / "dent", pictures(3, 2, fault=True))
    loaded = load_inspection(f"folder:{tmp_path}", image_size=(SIDE, SIDE))
    assert loaded.dataset.class_names == ("good", "dent")
    assert len(loaded.dataset.splits["train"]) == 16 and loaded.masks == [None] * 7
    assert loaded.dataset.splits["test"].target.tolist() == [0] * 4 + [1] * 3


def spoil(root, how):
    if how == "empty":
        for path in (root / "train/good").iterdir():
            path.unlink()
    elif how == "few":
        for path in sorted((root / "train/good").iterdir())[5:]:
            path.unlink()
    elif how == "size":
        Pillow.new("L", (9, 9)).save(root / "ground_truth/spot/001_mask.png")
    elif how == "stray":
        Pillow.new("L", (9, 9)).save(root / "ground_truth/spot/077_mask.png")
    elif how == "mask":
        (root / "ground_truth/spot/002_mask.png").write_bytes(b"no picture")
    else:
        (root / "test/spot/003.png").write_bytes(b"no picture")


@pytest.mark.parametrize(
    "how,words",
    [
        ("empty", ["no faultless picture", "train/good"]),
        ("few", ["5 faultless", "10 or more"]),
        ("size", ["001_mask.png is 9x9", "20x40"]),
        ("stray", ["077_mask.png has no picture"]),
        ("mask", ["002_mask.png"]),
        ("unreadable", ["test/spot/003.png"]),
    ],
)
def test_a_folder_that_is_not_right_is_refused(tiles, how, words):
    spoil(tiles, how)
    with pytest.raises(UserError) as error:
        load_inspection(f"folder:{tiles}", image_size=(SIDE, SIDE))
    assert all(word in str(error.value) for word in words), error.value


# ------------------------------------------------------------------------- the command

GAN = (
    "--method f-anogan --image-size 32 --patch 16 --gan-steps 4 --encoder-steps 4 --width 0.1 "
    "--batch-size 8 --critic-updates 1"
)


def test_a_run_is_made_used_and_measured_again(tiles, workplace, cli, runs):
    line = ["inspect", "--data", f"folder:{tiles}", "--features", runs["classify"]]
    line += ["--run-dir", "run"]
    code, out, err = cli(*line)
    assert code == 0, err
    assert "it is their highest score" in out
    summary = json.loads((workplace / "run/summary.json").read_text())
    assert {"auroc", "auroc/spot", "pixel_pro", "false_alarms", "recall"} <= set(summary)
    assert "<img" in (workplace / "run/report.html").read_text()
    trained = load_run(workplace / "run")
    held = [dataclasses.asdict(trained)["description"]["kind"], trained.threshold]
    assert held[0] == "inspector" and held[1] == pytest.approx(summary["threshold"])

    code, out, _ = cli(*line)  # nothing is learnt again
    assert code == 0 and load_run(workplace / "run").facts == trained.facts

    code, out, err = cli(
        "predict", "run", tiles / "test", "--out", "maps", "--json", "a.json", "--csv", "a.csv"
    )
    assert code == 0, err
    with Pillow.open(workplace / "maps/spot/000.png.png") as picture:
        assert picture.size == (40, 20)
    told = json.loads((workplace / "a.json").read_text())
    records = trained.predict(tiles / "test")
    assert [r["score"] for r in told["predictions"]] == pytest.approx([r.score for r in records])
    assert [r.faulty for r in records] == [r.score > trained.threshold for r in records]
    assert (workplace / "a.csv").read_text().startswith("file,score,verdict\n")

    code, out, err = cli("evaluate", "run")
    assert code == 0, err
    assert json.loads(out)["auroc"] == pytest.approx(summary["auroc"])
    assert cli("sample", "run")[0] == 2 and cli("report", "run")[0] == 2
    code, _, err = cli("predict", runs["classify"], tiles, "--out", "maps")
    assert code == 2 and "--out is for pictures" in err


@pytest.mark.slow
def test_an_f_anogan_is_trained_and_goes_on(tiles, workplace, cli):
    line = ["inspect", "--data", f"folder:{tiles}", *GAN.split(), "--run-dir", "run"]
    code, _, err = cli(*line)
    assert code == 0, err
    before = load_run(workplace / "run")
    # Without the result, both trainings have ended already, and it is made again to the same bits.
    shutil.rmtree(workplace / "run/checkpoints")
    code, _, err = cli(*line)
    assert code == 0 and load_run(workplace / "run").facts == before.facts, err


def test_a_classifiers_features_and_their_mistakes(tiles, workplace, cli, runs):
    line = ["inspect", "--data", f"folder:{tiles}", "--features", runs["classify"]]
    code, _, err = cli(*line, "--method", "patchcore", "--run-dir", "run")
    assert code == 0, err
    assert load_run(workplace / "run").columns["inputs"].shape == (8, 8, 1)
    for flags, words in {
        "--image-size 20": "leave --image-size out",
        "--layers stage9": "there is no 'stage9'",
        "--coreset 0.5": "--coreset needs --method patchcore",
    }.items():
        code, _, err = cli(*line, *flags.split(), "--run-dir", "other")
        assert code == 2 and words in err, err
        assert not (workplace / "other").exists()
    code, _, err = cli(*line[:3], "--features", runs["generate"])
    assert code == 2 and "no run of `classify`" in err
