"""Sample grids, curves, and one self-contained HTML page for a run.

The page asks nothing of the network: style inline, images and sounds as data URIs, and a content
policy that forbids everything else, scripts included. Equal inputs give equal bytes. Files appear
whole or not at all.
"""

import base64
import dataclasses
import html
import io
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from jaxnets.errors import UserError
from jaxnets.files import write_files
from jaxnets.media.letters import letters_for

__all__ = [
    "Audio",
    "Figure",
    "Section",
    "Table",
    "Text",
    "confusion_svg",
    "curves_svg",
    "grid_png",
    "html_report",
]

#: Gaps and letters of a grid: a dark mount looks right on light and dark pages.
_MOUNT, _LETTERS, _NAN = (32, 33, 36), (232, 234, 237), (255, 0, 255)
#: Pixels: a cell is enlarged to the first, unless the grid passes the second.
_CELL, _WIDEST = 64, 1600

#: Line colours that can be told apart on white and on near-black, by most colour-blind readers too.
_LINES = ("#3b82f6", "#e8793a", "#16a34a", "#c0439b", "#0e9aa7", "#a37f00", "#8b6cf0", "#d64545")
_INK = "#010203"  # a colour nobody uses, replaced by the page's own text colour


def _pixels(images: ArrayLike) -> np.ndarray:
    """[N, H, W, 3] uint8; NaN becomes magenta, so that a diverged sample is not taken for black."""
    values = np.asarray(images)
    if values.ndim != 4 or not values.size:
        raise UserError(
            f"a grid of images of shape {values.shape} cannot be drawn; "
            "give [N, H, W, C] with N > 0 and C > 0."
        )
    if values.shape[-1] == 2:
        no_blue = np.full_like(values[..., :1], 0 if values.dtype == np.uint8 else -1)
        values = np.concatenate([values, no_blue], axis=-1)
    values = values[..., :3]
    if values.dtype == np.uint8:
        return np.broadcast_to(values, (*values.shape[:-1], 3))
    values = np.broadcast_to(values.astype(np.float32), (*values.shape[:-1], 3))
    broken = np.isnan(values)
    scaled = np.rint((np.clip(np.where(broken, 0.0, values), -1.0, 1.0) + 1.0) * 127.5)
    return np.where(broken.any(axis=-1, keepdims=True), _NAN, scaled).astype(np.uint8)


def grid_png(
    images: ArrayLike,
    columns: int,
    *,
    scale: int | None = None,
    row_labels: Sequence[str] | None = None,
    column_labels: Sequence[str] | None = None,
) -> bytes:
    """Images in rows, as a PNG.

    Args:
      images: [N, H, W, C], float in [-1, 1] (clipped; NaN is drawn magenta) or uint8. Of two
        channels the first is drawn red and the second green, of more than three the first three.
      columns: images in a row; the last row may be short.
      scale: whole factor of enlargement, without smoothing; None makes a cell about 64 pixels.
      row_labels: a short text for each row, on its left.
      column_labels: one for each column, above; cut where it is wider than its column.

    Returns:
      The PNG file's bytes.

    Raises:
      UserError: if the shape cannot be drawn, or labels do not match rows or columns.
    """
    from PIL import Image, ImageDraw

    pixels = _pixels(images)
    count, height, width, _ = pixels.shape
    if columns < 1 or (scale is not None and scale < 1):
        raise UserError(f"columns={columns} and scale={scale} must be 1 or more; choose so.")
    rows = math.ceil(count / columns)
    for name, labels, wanted in (("row", row_labels, rows), ("column", column_labels, columns)):
        if labels is not None and len(labels) != wanted:
            raise UserError(f"{len(labels)} {name} labels for {wanted} {name}s; give one for each.")
    if scale is None:
        scale = math.ceil(_CELL / max(height, width))
        scale = max(1, min(scale, _WIDEST // (columns * width)))
    height, width, gap = height * scale, width * scale, max(2, scale // 2)

    font, (row_labels, column_labels) = letters_for(row_labels, column_labels)
    left = max((math.ceil(font.getlength(text)) + 8 for text in row_labels or ()), default=0)
    top = 22 if column_labels is not None else 0
    size = (left + gap + columns * (width + gap), top + gap + rows * (height + gap))
    canvas = np.broadcast_to(np.array(_MOUNT, np.uint8), (size[1], size[0], 3)).copy()
    corners = [
        (left + gap + (i % columns) * (width + gap), top + gap + (i // columns) * (height + gap))
        for i in range(count)
    ]
    for image, (x, y) in zip(pixels, corners, strict=True):
        canvas[y : y + height, x : x + width] = image.repeat(scale, axis=0).repeat(scale, axis=1)
    picture = Image.fromarray(canvas)
    draw = ImageDraw.Draw(picture)
    for row, text in enumerate(row_labels or ()):
        middle = top + gap + row * (height + gap) + height / 2
        draw.text((left - 4, middle), text, fill=_LETTERS, font=font, anchor="rm")
    for column, text in enumerate(column_labels or ()):
        whole = text
        while len(text) > 1 and font.getlength(text) > width:
            text = whole[: len(text.removesuffix("…")) - 1] + "…"
        middle = left + gap + column * (width + gap) + width / 2
        draw.text((middle, top - 8), text, fill=_LETTERS, font=font, anchor="mm")
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure as Canvas

    # Not through pyplot: no global state, no window, nothing to close.
    return Canvas(figsize=(width, height), layout="constrained")


def _plain(text: str) -> str:
    """Text that matplotlib draws as it stands: a `$` in a class's name is no mathematics."""
    return text.replace("$", r"\$")


def _svg(figure: Any) -> str:
    """The drawing as an `<svg>` element whose ink is the surrounding text's colour."""
    import matplotlib

    buffer = io.StringIO()
    # Date, version and random identifiers are what would differ between two equal drawings.
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    settings: Any = {"svg.hashsalt": "jaxnets", "svg.fonttype": "none"}
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        # The text stays text, and is drawn with the fonts of whoever reads it.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    return text[text.index("<svg") :].replace(_INK, "currentColor").strip()


def _paint_axes(axes: Any) -> None:
    axes.tick_params(colors=_INK, length=3)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(_INK)
    for text in (axes.title, axes.xaxis.label, axes.yaxis.label):
        text.set_color(_INK)


def curves_svg(
    records: Sequence[Mapping[str, Any]],
    keys: Sequence[str],
    x: str = "step",
    title: str = "",
    *,
    log: bool = False,
) -> str:
    """Curves of logged values.

    Args:
      records: one mapping for each logged moment; a record without `x` or without a key is passed
        over for it, and a value that is not finite leaves a gap.
      keys: which values to draw, on one pair of axes.
      x: the key of the horizontal axis.
      title: above the axes.
      log: whether the vertical axis is logarithmic.

    Returns:
      An `<svg>` element, the same for the same input.

    Raises:
      UserError: if no record has one of the keys.
    """
    figure = _figure(4.8, 3.0)
    axes = figure.add_subplot()
    for place, key in enumerate(keys):
        points = [(r[x], r[key]) for r in records if x in r and key in r]
        if not points:
            known = ", ".join(sorted({name for record in records for name in record})) or "nothing"
            raise UserError(f"no record has {key!r} and {x!r}; the records have {known}.")
        steps, values = np.array(points, float).T  # None, which JSON has for NaN, becomes NaN
        values = np.where(np.isfinite(values), values, np.nan)
        style = ("-", "--", ":")[place // len(_LINES) % 3]
        (line,) = axes.plot(steps, values, style, label=_plain(key), lw=1.6, markersize=3)
        line.set(color=_LINES[place % len(_LINES)], marker="o" if len(points) <= 30 else "")
    if log:
        axes.set_yscale("log")
    axes.set_xlabel(_plain(x))
    axes.set_title(_plain(title), fontsize=11)
    axes.grid(color=_INK, alpha=0.12, lw=0.8)
    _paint_axes(axes)
    axes.legend(frameon=False, labelcolor=_INK, fontsize=9)
    return _svg(figure)


def confusion_svg(matrix: ArrayLike, class_names: Sequence[str] | None = None) -> str:
    """A confusion matrix, each row coloured by its shares and, up to 20 classes, its counts.

    Args:
      matrix: [K, K] counts; row: true class, column: predicted class.
      class_names: K names; None numbers them.

    Returns:
      An `<svg>` element, the same for the same input.

    Raises:
      UserError: if the matrix is not square or the names are not K.
    """
    counts = np.asarray(matrix)
    names = list(class_names) if class_names is not None else [str(i) for i in range(len(counts))]
    if counts.shape != (len(names), len(names)):
        raise UserError(
            f"a confusion matrix of shape {counts.shape} with {len(names)} class names; "
            "give [K, K] counts and K names."
        )
    names = [_plain(n if len(n) <= 24 else f"{n[:12]}…{n[-11:]}") for n in names]
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(9.0, 2.2 + 0.45 * len(names))
    figure = _figure(side + 0.6, side)
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
    if len(names) <= 20:
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(names)), names)
        for row, column in np.argwhere(counts > 0):
            ink = "white" if shares[row, column] > 0.5 else "#1b1f24"
            cell = axes.text(column, row, f"{counts[row, column]:g}", color=ink, fontsize=8)
            cell.set(ha="center", va="center")
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    _paint_axes(axes)
    return _svg(figure)


@dataclasses.dataclass(frozen=True)
class Text:
    """Paragraphs, parted by empty lines, under a heading where there is one."""

    body: str
    heading: str = ""


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of cells; numbers are set to the right, floats with four digits."""

    rows: Sequence[Sequence[Any]]
    header: Sequence[str] = ()
    note: str = ""
    heading: str = ""


@dataclasses.dataclass(frozen=True)
class Figure:
    """A PNG file's bytes, or an `<svg>` element of `curves_svg` or `confusion_svg`, as it is.

    Several are laid side by side where the page is wide enough.
    """

    image: str | bytes | Sequence[str | bytes]
    caption: str = ""
    heading: str = ""


@dataclasses.dataclass(frozen=True)
class Audio:
    """Sounds with players: of each its name, a WAV file's bytes, and those of a PNG of it."""

    clips: Sequence[tuple[str, bytes, bytes]]
    caption: str = ""
    heading: str = ""


Section = Text | Table | Figure | Audio


def _cell(value: Any) -> str:
    number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    text = f"{value:.4g}" if isinstance(value, (float, np.floating)) else str(value)
    return f"<td{' class=n' if number else ''}>{html.escape(text)}</td>"


def _table(table: Table) -> str:
    head = "".join(f"<th scope=col>{html.escape(str(name))}</th>" for name in table.header)
    rows = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in table.rows)
    head = f"<thead><tr>{head}</tr></thead>" if head else ""
    note = f"<p class=note>{html.escape(table.note)}</p>" if table.note else ""
    return f"<div class=scroll><table>{head}<tbody>{rows}</tbody></table></div>{note}"


def _picture(figure: Figure) -> str:
    parts = [figure.image] if isinstance(figure.image, str | bytes) else [*figure.image]
    for place, image in enumerate(parts):
        if isinstance(image, bytes):
            if not image.startswith(b"\x89PNG"):
                raise UserError("a figure's bytes are not a PNG; give grid_png(...) or an <svg>.")
            code, alt = base64.b64encode(image).decode(), html.escape(figure.caption or "figure")
            parts[place] = f'<img alt="{alt}" src="data:image/png;base64,{code}">'
    body = "".join(f"<div>{part}</div>" for part in parts)
    caption = f"<figcaption>{html.escape(figure.caption)}</figcaption>" if figure.caption else ""
    return f"<figure><div class=beside>{body}</div>{caption}</figure>"


def _player(name: str, wav: bytes, png: bytes) -> str:
    code, picture = base64.b64encode(wav).decode(), _picture(Figure(png, name))
    return f'{picture}<audio controls src="data:audio/wav;base64,{code}"></audio>'


def _section(section: Section) -> str:
    heading = f"<h2>{html.escape(section.heading)}</h2>" if section.heading else ""
    if isinstance(section, Table):
        body = _table(section)
    elif isinstance(section, Figure):
        body = _picture(section)
    elif isinstance(section, Audio):
        note = f"<p class=note>{html.escape(section.caption)}</p>" if section.caption else ""
        body = "".join(_player(*clip) for clip in section.clips) + note
    else:
        parts = section.body.split("\n\n")
        body = "".join(f"<p>{html.escape(part.strip())}</p>" for part in parts if part.strip())
    return f"<section>{heading}{body}</section>"


_STYLE = """
:root{color-scheme:light dark;--page:#f6f7f9;--card:#fff;--ink:#1b1f24;--soft:#5b6470;
--line:#dfe3e8}
@media(prefers-color-scheme:dark){:root{--page:#0f1115;--card:#181b21;--ink:#e6e8eb;
--soft:#9aa3ae;--line:#2c313a}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);line-height:1.55;
font-family:system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:58rem;margin:0 auto;padding:1.5rem 1rem 3rem}
h1{font-size:1.6rem;line-height:1.25;margin:.5rem 0 1.2rem}
h2{font-size:1.1rem;margin:0 0 .7rem}
section{background:var(--card);border:1px solid var(--line);border-radius:10px;
padding:1rem 1.1rem;margin:0 0 1rem}
p{margin:.4rem 0;white-space:pre-line;overflow-wrap:anywhere}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-size:.92rem;min-width:50%}
th,td{text-align:left;padding:.38rem .8rem .38rem 0;border-bottom:1px solid var(--line);
vertical-align:top}
th{color:var(--soft);font-weight:600}
td:last-child{overflow-wrap:anywhere;padding-right:0}
td.n{text-align:right;font-variant-numeric:tabular-nums}
figure{margin:0}
img,svg{display:block;max-width:100%;height:auto}
.beside{display:flex;flex-wrap:wrap;gap:1rem}
.beside div{flex:1 1 20rem;min-width:0}
figcaption,.note{color:var(--soft);font-size:.88rem;margin-top:.6rem}
"""


def html_report(path: str | os.PathLike[str], title: str, sections: Sequence[Section]) -> Path:
    """Writes one HTML file that needs no other.

    It reads on a phone, follows the reader's light or dark setting, and escapes all text.

    Args:
      path: where; folders are made.
      title: of the page.
      sections: `Text`, `Table`, `Figure` and `Audio`, from top to bottom.

    Raises:
      UserError: if a figure's bytes are not a PNG.
    """
    policy = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body><main><h1>{html.escape(title)}</h1>\n"
        + "\n".join(_section(section) for section in sections)
        + "\n</main></body></html>\n"
    )
    write_files({Path(path): page.encode(errors="backslashreplace")})
    return Path(path)
