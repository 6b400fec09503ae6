"""`objects:`: pictures with boxes as Pascal VOC, COCO and YOLO lay them out, and their mistakes."""

import json
import os

import numpy as np
import pytest
from PIL import Image as Pillow

from jaxnets.columns import Boxes
from jaxnets.data import load
from jaxnets.data.sources.objects import load_objects
from jaxnets.errors import UserError

#: Height and width of a picture; its objects: name, left, top, right, bottom.
SIZE = (40, 60)
THINGS = {
    "a": [("cat", 0, 10, 30, 40), ("dog", 30, 0, 50, 20)],
    "b": [("dog", 6, 4, 36, 24)],
    "c": [],
    "d": [("cat", 15, 10, 45, 30)],
}
NAMES = ("cat", "dog")


def picture(path, seed=0, size=SIZE):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    Pillow.fromarray(pixels).save(path)


def xml(name, things, size=SIZE, filename=None):
    """A file of Pascal VOC, an object on each line from the fifth on."""
    objects = [
        f"<object><name>{kind}</name><difficult>{int(kind == 'dog' and name == 'b')}</difficult>"
        f"<bndbox><xmin>{left}</xmin><ymin>{top}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax>"
        "</bndbox></object>"
        for kind, left, top, right, bottom in things
    ]
    head = ["<annotation>", f"<filename>{filename or name + '.jpg'}</filename>"]
    head += [f"<size><height>{size[0]}</height>", f"<width>{size[1]}</width></size>"]
    return "\n".join([*head, *objects, "</annotation>"])


def voc(root):
    for seed, (name, things) in enumerate(THINGS.items()):
        picture(root / "JPEGImages" / f"{name}.jpg", seed)
        (root / "Annotations").mkdir(exist_ok=True)
        (root / "Annotations" / f"{name}.xml").write_text(xml(name, things))
    lists = root / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\nb\nc\n")
    (lists / "test.txt").write_text("d\n")


def coco(root):
    for split, names in (("train", "abc"), ("val", "d")):
        images, objects = [], []
        for seed, name in enumerate(names):
            picture(root / f"{split}2017" / f"{name}.jpg", 10 * ord(name) + seed)
            height, width = SIZE
            images.append(
                {"id": seed, "file_name": f"{name}.jpg", "height": height, "width": width}
            )
            for kind, left, top, right, bottom in THINGS[name]:
                objects.append(
                    {
                        "id": len(objects),
                        "image_id": seed,
                        "category_id": {"cat": 17, "dog": 18}[kind],
                        "bbox": [left, top, right - left, bottom - top],
                        "iscrowd": int(kind == "dog" and name == "b"),
                        **({"area": 77.0} if kind == "dog" else {}),
                    }
                )
        content = {
            "images": images,
            "annotations": objects,
            "categories": [{"id": 18, "name": "dog"}, {"id": 17, "name": "cat"}],
        }
        (root / "annotations").mkdir(exist_ok=True)
        path = root / "annotations" / f"instances_{split}2017.json"
        path.write_text(json.dumps(content))


def yolo(root):
    height, width = SIZE
    for seed, (name, things) in enumerate(THINGS.items()):
        split = "test" if name == "d" else "train"
        picture(root / "images" / split / f"{name}.png", seed)
        lines = [
            f"{NAMES.index(kind)} {(left + right) / 2 / width} {(top + bottom) / 2 / height} "
            f"{(right - left) / width} {(bottom - top) / height}"
            for kind, left, top, right, bottom in things
        ]
        if lines:  # a picture without a file has no object
            (root / "labels" / split).mkdir(parents=True, exist_ok=True)
            (root / "labels" / split / f"{name}.txt").write_text("\n".join(lines))
    (root / "data.yaml").write_text("names: [cat, dog]\n")


LAYOUTS = {"Pascal VOC": voc, "COCO": coco, "YOLO": yolo}


@pytest.mark.parametrize("kind", LAYOUTS)
def test_three_layouts_say_the_same(kind, tmp_path):
    LAYOUTS[kind](tmp_path)
    found = load_objects(f"objects:{tmp_path}", image_size=(20, 30))
    dataset = found.dataset
    assert f"boxes are read as {kind}" in dataset.notes and dataset.class_names == NAMES
    assert dataset.columns["target"] == Boxes(NAMES, 2)
    # COCO's "val" is no split for testing: a picture is set apart for that.
    parts = {name: [one.path.stem for one in of] for name, of in found.pictures.items()}
    assert sorted(name for of in parts.values() for name in of) == ["a", "b", "c", "d"]
    assert parts.get("validation", parts["test"]) == ["d"]
    height, width = SIZE
    for split, of in found.pictures.items():
        for one, row in zip(of, dataset.splits[split].target, strict=True):
            wanted = THINGS[one.path.stem]
            there = row[row[:, 5] > 0]
            assert [NAMES[int(label)] for label in there[:, 4]] == [thing[0] for thing in wanted]
            corners = there[:, :4] * [width, height, width, height]
            np.testing.assert_allclose(
                corners, np.reshape([thing[1:] for thing in wanted], (-1, 4)), atol=1e-3
            )
            np.testing.assert_allclose(one.boxes, corners, atol=1e-3)
            hard = one.path.stem == "b" and kind != "YOLO"
            of_boxes = [(r - left) * (b - top) for _, left, top, r, b in wanted]
            dogs = [kind == "COCO" and thing[0] == "dog" for thing in wanted]
            areas = np.where(dogs, 77.0, of_boxes)  # where an area is written, it counts
            np.testing.assert_allclose(one.areas, areas, rtol=1e-5)
            assert (there[:, 5] == 2).all() == (hard or not len(there))
    assert any("1 of 4 pictures have no object (c" in note for note in dataset.notes)


def test_pictures_keep_their_shape_in_a_frame_and_boxes_move_with_them(tmp_path):
    (tmp_path / "classes.txt").write_text("cat\n")
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[5:15, 10:30] = 255
    for name in "ab":
        Pillow.fromarray(pixels + (name == "b")).save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    dataset = load(f"objects:{tmp_path}", image_size=(32, 32))
    train = dataset.splits["train"]
    left, top, right, bottom = train.target[0, 0, :4] * 32
    assert (left, right) == (8, 24) and (top, bottom) == (4, 12)
    frame = train.inputs[0, ..., 0].astype(int)
    assert (frame[16:] == 128).all()  # below the picture
    assert frame[5:11, 10:22].min() > 240 and frame[1:3, :6].max() < 15
    assert any("50% stays grey" in note for note in dataset.notes)


def broken(root, how):
    """A folder with one mistake."""
    notes = root / "Annotations" / "a.xml"
    if how.startswith("coco"):
        coco(root)
        path = root / "annotations" / "instances_train2017.json"
        content = json.loads(path.read_text())
        if how == "coco image":
            content["annotations"][1]["image_id"] = 99
        elif how == "coco category":
            content["annotations"][1]["category_id"] = 5
        else:
            content["images"][0]["file_name"] = "gone.jpg"
        path.write_text(json.dumps(content))
    elif how.startswith("yolo"):
        yolo(root)
        path = root / "labels" / "train" / "a.txt"
        line = {"yolo pixels": "0 20 20 10 10", "yolo class": "7 .5 .5 .1 .1", "yolo row": "0 .5"}
        path.write_text(f"0 .5 .5 .1 .1\n{line[how]}\n")
    else:
        voc(root)
        things = {
            "no size": [("cat", 5, 5, 20, 20), ("cat", 9, 9, 9, 30)],
            "outside": [("cat", 5, 5, 20, 20), ("cat", 70, 9, 80, 30)],
            "nameless": [("cat", 5, 5, 20, 20), ("", 5, 5, 20, 20)],
        }.get(how, THINGS["a"])
        size = (99, 60) if how == "size" else SIZE
        notes.write_text(xml("a", things, size, "b.jpg" if how == "other" else None))
        if how == "gone":
            os.remove(root / "JPEGImages" / "a.jpg")
        if how == "xml":
            notes.write_text("<annotation><object>")


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("no size", "Annotations/a.xml, line 6, has a box of no size"),
        ("outside", "Annotations/a.xml, line 6, has a box outside its picture a.jpg"),
        ("nameless", "Annotations/a.xml, line 6, has an object without a name"),
        ("size", "Annotations/a.xml says 99x60 .*, and a.jpg is 40x60"),
        ("other", "Annotations/a.xml names another picture, b.jpg"),
        ("gone", "Annotations/a.xml has no picture a.jpg"),
        ("coco image", "train2017.json, annotation 1, is of an image that is not listed, 99"),
        ("coco category", "annotation 1, has a category that is not listed, 5"),
        ("coco file", "image 0, has no file gone.jpg"),
        ("yolo pixels", "labels/train/a.txt, line 2, has pixels where shares"),
        ("yolo class", "labels/train/a.txt, line 2, has the class 7, and 0 to 1 are listed"),
        ("yolo row", "labels/train/a.txt, line 2, has 2 numbers"),
    ],
)
def test_a_mistake_is_named_with_its_place_or_left_out(how, words, tmp_path):
    broken(tmp_path, how)
    with pytest.raises(UserError, match=f"{words}.*--skip-bad"):
        load_objects(f"objects:{tmp_path}")
    found = load_objects(f"objects:{tmp_path}", skip_bad=True)
    count = 2 if how == "gone" else 1  # a split lists that picture too
    assert any(note.startswith(f"left out: {count} (") for note in found.dataset.notes)


def test_what_is_no_folder_of_boxes_is_refused(tmp_path):
    with pytest.raises(UserError, match="is not there"):
        load_objects(f"objects:{tmp_path / 'none'}")
    picture(tmp_path / "a.png")
    with pytest.raises(UserError, match="has no boxes: there is no XML"):
        load_objects(f"objects:{tmp_path}")
    (tmp_path / "a.txt").write_text("0 .5 .5 .1 .1")
    with pytest.raises(UserError, match="no list of classes"):
        load_objects(f"objects:{tmp_path}")
    broken(tmp_path / "x", "xml")
    with pytest.raises(UserError, match="is no XML that can be read"):
        load_objects(f"objects:{tmp_path / 'x'}")
    voc(tmp_path / "v")
    picture(tmp_path / "v" / "JPEGImages" / "d.jpg", size=(30, 30))
    (tmp_path / "v" / "Annotations" / "d.xml").write_text(xml("d", [], (30, 30)))
    with pytest.raises(UserError, match="pictures of 2 sizes, from 30x30 to 40x60"):
        load_objects(f"objects:{tmp_path / 'v'}")


def test_a_box_over_the_edge_ends_there(tmp_path):
    voc(tmp_path)
    (tmp_path / "Annotations" / "a.xml").write_text(xml("a", [("cat", -9, 10, 30, 55)]))
    found = load_objects(f"objects:{tmp_path}")
    np.testing.assert_array_equal(found.pictures["train"][0].boxes, [[0, 10, 30, 40]])
    assert any("1 boxes reach beyond" in note for note in found.dataset.notes)


def test_boxes_are_data_of_a_kind(tmp_path, workplace, cli):
    voc(tmp_path)
    code, out, err = cli("data", "show", f"objects:{tmp_path}", "--per-class", 2, "--out", "a.png")
    assert code == 0, err
    assert "cat 1, dog 1" in out and "count neither way" in out
    with Pillow.open(workplace / "a.png") as sheet:
        assert sheet.width > 2 * SIZE[1]
    code, _, err = cli("classify", "--data", f"objects:{tmp_path}")
    assert code == 2 and "has boxes around objects" in err


def test_a_column_of_boxes_refuses_what_cannot_be():
    column = Boxes(("a", "b"), 2)
    good = column.rows(np.array([[0.1, 0.1, 0.5, 0.5]]), np.array([1]))[None]
    column.check(good, "it")
    for place, value, words in (
        ((0, 0, 2), 0.1, "has no size"),
        ((0, 0, 2), 1.5, "is outside its picture"),
        ((0, 0, 4), 2, r"has a class outside 0\.\.1"),
        ((0, 0, 5), 3, "is no object"),
    ):
        wrong = good.copy()
        wrong[place] = value
        with pytest.raises(UserError, match=f"box 0 of picture 0 in it {words}"):
            column.check(wrong, "it")
