"""The mark of a generated image, as written, as read back, and wherever images are written."""

import io
import json
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from command_lines import assert_one_error, newest
from jaxnets.commands import pictures
from jaxnets.errors import UserError
from jaxnets.judge import evaluate
from jaxnets.media import provenance, report

FACTS = {"model": "dcgan on digits", "weights": "0123456789ab", "seed": 3, "truncation": None}
GRID = report.grid_png(np.zeros((4, 8, 8, 1), np.uint8), 2)


def written(path, data):
    path.write_bytes(data)
    return path


def opened(png):
    image = Image.open(io.BytesIO(png))
    image.load()
    return image


# ------------------------------------------------------------------------------ the mark itself


@pytest.mark.parametrize("composite", [False, True])
def test_a_mark_is_read_back_and_leaves_the_pixels(composite, tmp_path):
    marked = provenance.mark(GRID, FACTS, composite=composite)
    found = provenance.synthetic(written(tmp_path / "a.png", marked))
    source = provenance.COMPOSITE if composite else provenance.GENERATED
    assert found == {
        "synthetic": True,
        "digital_source_type": source,
        "software": f"jaxnets {__import__('jaxnets').__version__}",
        "model": "dcgan on digits",
        "weights": "0123456789ab",
        "seed": "3",
    }
    np.testing.assert_array_equal(np.asarray(opened(marked)), np.asarray(opened(GRID)))
    assert marked == provenance.mark(GRID, FACTS, composite=composite)
    assert provenance.synthetic(written(tmp_path / "b.png", GRID)) is None


def test_other_programs_read_it_as_text_and_as_xmp():
    image = opened(provenance.mark(GRID, FACTS))
    assert image.text["Synthetic"] == "true" and image.text["Software"].startswith("jaxnets ")
    packet = image.text["XML:com.adobe.xmp"]
    (description,) = ElementTree.fromstring(re.sub(r"<\?xpacket[^>]*>", "", packet)).iter(
        "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description"
    )
    space = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}"
    assert description.attrib[f"{space}DigitalSourceType"] == (
        "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
    )


def test_a_new_mark_takes_the_place_of_an_old_one():
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "stays")
    buffer = io.BytesIO()
    opened(GRID).save(buffer, "PNG", pnginfo=info)
    twice = provenance.mark(provenance.mark(buffer.getvalue(), FACTS, composite=True), {"seed": 4})
    assert twice == provenance.mark(buffer.getvalue(), {"seed": 4})
    assert opened(twice).text["Comment"] == "stays" and b"composite" not in twice


def test_an_animation_keeps_its_frames(tmp_path):
    frames = [report.grid_png(np.full((1, 8, 8, 1), i, np.uint8), 1) for i in (1, 99, 200)]
    path = written(tmp_path / "walk.png", provenance.mark(pictures.animation(frames), FACTS))
    with Image.open(path) as picture:
        assert picture.n_frames == 3
    assert provenance.synthetic(path)["model"] == "dcgan on digits"


def test_texts_in_any_script_survive_and_none_breaks_out(tmp_path):
    for text in ("größe", "名前", "a\0b", '"/><x>', "\N{RIGHT-TO-LEFT OVERRIDE}x"):
        marked = provenance.mark(GRID, {"data": text})
        found = provenance.synthetic(written(tmp_path / "a.png", marked))
        assert found["data"] == text.replace("\0", "")


@pytest.mark.parametrize(
    "packet",
    [
        '<x Iptc4xmpExt:DigitalSourceType="{}trainedAlgorithmicMedia"/>',
        "<Iptc4xmpExt:DigitalSourceType>{}compositeWithTrainedAlgorithmicMedia</x>",
        '<Iptc4xmpExt:DigitalSourceType rdf:resource="{}trainedAlgorithmicMedia"/>',
    ],
)
@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_the_marks_of_other_programs_count(packet, form, tmp_path):
    packet = packet.format("http://cv.iptc.org/newscodes/digitalsourcetype/")
    buffer = io.BytesIO()
    if form == "PNG":
        info = PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", packet)
        Image.new("L", (8, 8)).save(buffer, form, pnginfo=info)
    else:
        Image.new("L", (8, 8)).save(buffer, form, xmp=packet.encode())
    found = provenance.synthetic(written(tmp_path / "other", buffer.getvalue()))
    assert found is not None and found["digital_source_type"].endswith("AlgorithmicMedia")


@pytest.mark.parametrize("name", ["digitalCapture", "algorithmicMedia", "humanEdits"])
def test_what_is_no_generated_image_has_no_mark(name, tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", f'<x DigitalSourceType="{provenance._TYPES}{name}"/>')
    info.add_text("Synthetic", "false")
    Image.new("L", (8, 8)).save(tmp_path / "a.png", pnginfo=info)
    assert provenance.synthetic(tmp_path / "a.png") is None


# ------------------------------------------------------------------------------ hostile files


def test_only_a_png_and_known_facts_are_marked():
    for data in (b"", b"\x89PNG\r\n\x1a\n", b"GIF89a", GRID[1:]):
        with pytest.raises(UserError, match="only a PNG"):
            provenance.mark(data, FACTS)
    with pytest.raises(UserError, match=r"no word for colour.*weights"):
        provenance.mark(GRID, {"colour": "red"})


def refused(path):
    """The error of a file that cannot be read; "" where it can."""
    try:
        provenance.synthetic(path)
    except UserError as error:
        return str(error)
    return ""


def test_a_marked_file_cut_anywhere_is_read_or_refused(tmp_path):
    marked = provenance.mark(GRID, FACTS)
    errors = [refused(written(tmp_path / "x.png", marked[:n])) for n in range(0, len(marked), 29)]
    assert all("cannot be read" in error for error in errors if error)
    assert errors[0] and not errors[-1]


def test_a_text_that_unpacks_to_gigabytes_is_refused(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_text("Model", "x" * 50_000_000, zip=True)
    Image.new("L", (8, 8)).save(tmp_path / "a.png", pnginfo=info)
    with pytest.raises(UserError, match="cannot be read"):
        provenance.synthetic(tmp_path / "a.png")


def test_files_beside_arrays(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"")
    assert provenance.synthetic(tmp_path / "a.npz") is None
    for text in ("[]", "null", '{"synthetic": "yes"}', '{"synthetic": false}'):
        (tmp_path / "a.json").write_text(text)
        assert provenance.synthetic(tmp_path / "a.npz") is None
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        provenance.synthetic(tmp_path / "a.npz")
    for path in ("nowhere", "a\0b", "."):
        with pytest.raises(UserError):
            provenance.synthetic(tmp_path / path)


# ----------------------------------------------------------------------- wherever images are made


def test_every_picture_of_a_run_that_shows_samples_is_marked(runs):
    folder = runs["generate"]
    names = {path.name for path in (folder / "samples").glob("*.png")}
    assert "report-samples.png" in names and len(names) >= 2
    for name in names:
        found = provenance.synthetic(folder / "samples" / name)
        assert found is not None and found["model"] == "dcgan on digits", name
        assert found["data"] == "digits" and re.fullmatch("[0-9a-f]{12}", found["weights"])
        assert found["digital_source_type"] == provenance.GENERATED
    config = json.loads((folder / "config.json").read_text())["config"]
    assert found["data_fingerprint"] == config["data_fingerprint"]


def test_a_batch_says_what_made_it(cli, copies, workplace):
    average = newest(copies["generate"])[0]["nets"]["generator"]["ema"]
    weights = evaluate.digest({"params": average["params"], **average["model_state"]})
    command = ["sample", copies["generate"], "--count", 12, "--truncation", 0.5, "--images"]
    code, out, err = cli(*command, "--interpolate", 2, "--seed", 5, "--out", "made")
    assert code == 0 and "each as a PNG: made/" in out, err
    batch = json.loads((workplace / "made.json").read_text())
    assert batch == provenance.synthetic(workplace / "made.npz")
    assert batch["synthetic"] is True and batch["digital_source_type"] == provenance.GENERATED
    assert batch["generator"] == "dcgan" and batch["data"] == "digits"
    assert batch["weights"] == weights and batch["seed"] == 5 and batch["truncation"] == 0.5
    assert batch["count"] == 12 and batch["labels"] == [*range(10), 0, 1]
    assert batch["watermark"] is None and set(batch["versions"]) >= {"jaxnets", "jax"}
    files = [workplace / "made.png", workplace / "made-walk.png", *(workplace / "made").iterdir()]
    assert len(files) == 14
    for path in files:
        found = provenance.synthetic(path)
        assert found is not None and found["weights"] == weights and found["seed"] == "5"
    assert provenance.synthetic(workplace / "made" / "000011.png")["label"] == "1"
    before = {path: path.read_bytes() for path in workplace.rglob("*") if path.is_file()}
    assert cli(*command, "--interpolate", 2, "--seed", 5, "--out", "made")[0] == 0
    assert before == {path: path.read_bytes() for path in workplace.rglob("*") if path.is_file()}
    out = cli("marks", "made")[1]
    assert "12 of 12 files are synthetic" in out and "trainedAlgorithmicMedia" in out
    fewer = cli(*command[:3], 3, "--images", "--out", "made")
    assert_one_error(fewer, "made holds", "not of these images")


def test_pictures_of_real_images_have_no_mark(cli, workplace):
    assert cli("data", "show", "digits", "--out", "real.png")[0] == 0
    assert provenance.synthetic(workplace / "real.png") is None
    code, out, _ = cli("marks", "real.png", "--key", 1)
    assert code == 0 and "mark: none" in out and "watermark of this key: not found" in out
