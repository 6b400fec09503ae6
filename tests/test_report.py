"""Grids pixel by pixel, drawings as XML, and a page that asks for nothing."""

import io
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from jaxnets.errors import UserError
from jaxnets.media import report

RECORDS = [{"step": i, "loss": 1.0 / (i + 1), "g/loss": float(i)} for i in range(12)]


def decode(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def test_grid_holds_every_image_enlarged_without_smoothing():
    images = np.random.default_rng(0).integers(0, 256, (5, 3, 4, 3)).astype(np.uint8)
    picture = decode(report.grid_png(images, 2, scale=3))
    gap = 2
    assert picture.shape == (gap + 3 * (9 + gap), gap + 2 * (12 + gap), 3)
    for i, image in enumerate(images):
        y, x = gap + i // 2 * 11, gap + i % 2 * 14
        block = picture[y : y + 9, x : x + 12]
        np.testing.assert_array_equal(block, np.kron(image, np.ones((3, 3, 1), np.uint8)))
    assert (picture[-9:, -12:] == picture[0, 0]).all()  # the place that stays empty


def test_float_images_span_the_bytes_are_clipped_and_show_nan():
    values = np.array([-1.0, 0.0, 1.0, -7.0, 7.0, np.nan], np.float32).reshape(6, 1, 1, 1)
    picture = decode(report.grid_png(values, 6, scale=1))[2, 2::3]
    np.testing.assert_array_equal(picture[:5, 0], [0, 128, 255, 0, 255])
    np.testing.assert_array_equal(picture[5], [255, 0, 255])


def test_tiny_images_are_made_visible_and_wide_grids_stay_within_the_screen():
    width = decode(report.grid_png(np.zeros((4, 8, 8, 1)), 4)).shape[1]
    assert 4 * 64 <= width < 300
    assert decode(report.grid_png(np.zeros((64, 28, 28, 1)), 64)).shape[1] < 64 * 31 + 3


def test_labels_take_room_beside_the_images():
    images = -np.ones((4, 32, 32, 1), np.float32)
    plain = decode(report.grid_png(images, 2))
    png = report.grid_png(images, 2, row_labels=["real", "fake"], column_labels=["a", "b" * 99])
    labelled = decode(png)
    top, left = (a - b for a, b in zip(labelled.shape[:2], plain.shape[:2], strict=True))
    assert top > 10 and left > 20
    np.testing.assert_array_equal(labelled[top:, left:], plain)  # no letter runs into an image
    assert (labelled[:top].max(), labelled[top:, :left].max()) > (200, 200)
    assert png == report.grid_png(
        images, 2, row_labels=["real", "fake"], column_labels=["a", "b" * 99]
    )


def test_a_report_appears_whole(tmp_path, monkeypatch):
    path = report.html_report(tmp_path / "new" / "report.html", "one", [])
    before = path.read_bytes()

    def fail(path, target):
        raise OSError(28, "disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        report.html_report(path, "another", [])
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


def texts(svg):
    return {"".join(e.itertext()).strip() for e in ElementTree.fromstring(svg).iter()}


def test_curves_name_what_they_show_and_are_deterministic():
    svg = report.curves_svg(RECORDS, ["loss", "g/loss"], title="a <b> & $c$")
    assert {"loss", "g/loss", "step", "a <b> & $c$"} <= texts(svg)
    assert svg == report.curves_svg(RECORDS, ["loss", "g/loss"], title="a <b> & $c$")
    assert "currentColor" in svg and "#010203" not in svg
    assert report.curves_svg(RECORDS[:1], ["loss"]).startswith("<svg")


def test_curves_pass_over_gaps():
    gappy = [*RECORDS, {"step": 12, "loss": float("nan")}, {"other": 1.0}]
    assert "NaN" not in report.curves_svg(gappy, ["loss"]).replace("nan", "NaN")


def test_confusion_shows_names_and_counts():
    svg = report.confusion_svg([[41, 2], [0, 37]], ["$T$-shirt", "<Trouser>"])
    assert {"41", "2", "37", "$T$-shirt", "<Trouser>", "true", "predicted"} <= texts(svg)
    assert svg == report.confusion_svg([[41, 2], [0, 37]], ["$T$-shirt", "<Trouser>"])
    assert report.confusion_svg(np.eye(30)).startswith("<svg")


class Page(HTMLParser):
    """Collects tags and text; complains of a closing tag that matches nothing."""

    def __init__(self):
        super().__init__()
        self.tags, self.open, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_page_is_self_contained_and_escapes_everything(tmp_path):
    evil = "<script>alert('x')</script>&"
    png = report.grid_png(np.zeros((1, 4, 4, 1)), 1)
    path = report.html_report(
        tmp_path / "report.html",
        evil,
        [
            report.Text(f"one\n\n{evil}", heading=evil),
            report.Table([[evil, 0.123456, 7, True]], [evil, "b", "c", "d"], note=evil),
            report.Figure(png, caption=evil + '"'),
            report.Figure(report.curves_svg(RECORDS, ["loss"])),
        ],
    )
    source = path.read_text()
    page = Page()
    page.feed(source)
    assert page.open == [] and "script" not in {tag for tag, _ in page.tags}
    assert "".join(page.text).count(evil) == 8  # all places but the image's alt
    assert {"0.1235", "7", "True"} <= set(page.text)
    # Nothing points outside: names of XML namespaces are the only addresses.
    assert set(re.findall(r"https?://[^\s\"'<>)]*", source)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "object")
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "data:").startswith(("data:", "#"))
    assert "default-src 'none'" in source and 'name="viewport"' in source


@pytest.mark.parametrize("dtype,low,high", [(np.uint8, 0, 255), (np.float32, -1.0, 1.0)])
def test_images_of_any_number_of_channels_are_drawn(dtype, low, high):
    bright = np.full((1, 4, 4, 5), low, dtype)
    bright[..., 1] = high

    def middle(images):
        drawn = Image.open(io.BytesIO(report.grid_png(images, 1, scale=1))).convert("RGB")
        return drawn.getpixel((drawn.width // 2, drawn.height // 2))

    for channels in (2, 3, 4, 5):
        assert middle(bright[..., :channels]) == (0, 255, 0)
    assert middle(bright[..., 1:2]) == (255, 255, 255)


def test_errors():
    with pytest.raises(UserError, match=r"\(0, 4, 4, 1\)"):
        report.grid_png(np.zeros((0, 4, 4, 1)), 1)
    with pytest.raises(UserError, match="C > 0"):
        report.grid_png(np.zeros((2, 4, 4, 0)), 1)
    with pytest.raises(UserError, match="1 row labels for 2 rows"):
        report.grid_png(np.zeros((2, 4, 4, 1)), 1, row_labels=["a"])
    with pytest.raises(UserError, match="columns=0"):
        report.grid_png(np.zeros((2, 4, 4, 1)), 0)
    with pytest.raises(UserError, match=r"'fid'.*g/loss, loss, step"):
        report.curves_svg(RECORDS, ["fid"])
    with pytest.raises(UserError, match="3 class names"):
        report.confusion_svg(np.eye(2), ["a", "b", "c"])
    with pytest.raises(UserError, match="not a PNG"):
        report.html_report("unused.html", "t", [report.Figure(b"GIF89a")])
