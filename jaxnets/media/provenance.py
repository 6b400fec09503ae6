"""The machine-readable mark of what no camera has seen: that an image is generated, and by what.

A PNG carries it twice: as text chunks that anyone can read (`Synthetic: true`, and what is known of
the generator), and as an XMP packet with the IPTC's digital source type, which is what image tools,
news agencies and search engines look at. A batch of arrays has a JSON beside it. A mark is a
statement and no proof: any program can drop it. See `jaxnets.media.watermark` for what is harder to
drop.

References:
  IPTC Photo Metadata Standard 2023.1, Digital Source Type;
  https://cv.iptc.org/newscodes/digitalsourcetype/. XMP Specification Part 3 (Adobe), PNG.
"""

import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxnets import __version__
from jaxnets.errors import UserError
from jaxnets.files import check_path, read_json

__all__ = ["COMPOSITE", "GENERATED", "mark", "of_each", "record", "synthetic"]

_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
#: IPTC digital source types: all of an image is generated, or a part of it.
GENERATED = _TYPES + "trainedAlgorithmicMedia"
COMPOSITE = _TYPES + "compositeWithTrainedAlgorithmicMedia"

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEADER = len(_SIGNATURE) + 25  # with IHDR, which is always the first
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_XMP = "XML:com.adobe.xmp"
#: Texts of a PNG, by the keys of a record.
_KEYWORDS = {
    key: key.replace("_", " ").title()  # "Software" is one of the PNG standard's own
    for key in (
        *("synthetic", "digital_source_type", "software", "model", "generator", "weights"),
        *("data", "data_fingerprint", "seed", "label", "truncation", "watermark"),
    )
}
_LONGEST = 1 << 22  # characters of a line of texts, the mark included
_TYPE_IN_XMP = re.compile(r"DigitalSourceType.{1,100}?/digitalsourcetype/(\w{1,80})", re.DOTALL)


def record(facts: Mapping[str, Any], *, composite: bool = False) -> dict[str, Any]:
    """What a mark says of generated images, for the JSON beside a batch of them.

    `synthetic`, `digital_source_type` and `software`, and after them facts such as `weights`,
    `data` and `seed`; `composite` if real images are among them.
    """
    return {
        "synthetic": True,
        "digital_source_type": COMPOSITE if composite else GENERATED,
        "software": f"jaxnets {__version__}",
        **facts,
    }


def of_each(
    about: Mapping[str, Any], labels: Sequence[str | int] | None, count: int
) -> list[Mapping[str, Any]]:
    """The facts of each of `count` things that a generator made, with its label where it has one.

    Args:
      about: what is known of them all.
      labels: one for each, or None.
      count: how many.
    """
    return [about if labels is None else {**about, "label": labels[i]} for i in range(count)]


def mark(png: bytes, facts: Mapping[str, Any], *, composite: bool = False) -> bytes:
    """A PNG with the mark, in place of one that it may have; its pixels stay.

    Args:
      png: the file's bytes; an animation is as good as a still.
      facts: texts and numbers of `model`, `generator`, `weights`, `data`, `data_fingerprint`,
        `seed`, `label`, `truncation` and `watermark`; None leaves one out.
      composite: whether it shows real images too.

    Returns:
      The same for the same input: no clock, no name of a machine.

    Raises:
      UserError: for bytes that are no PNG, or a fact that the mark has no word for.
    """
    from PIL import PngImagePlugin

    if not png.startswith(_SIGNATURE) or png[12:16] != b"IHDR":
        raise UserError("only a PNG can carry the mark of a generated image; these bytes are none")
    unknown = sorted(set(facts) - set(_KEYWORDS))
    if unknown:
        raise UserError(
            f"the mark has no word for {', '.join(unknown)}; it has {', '.join(_KEYWORDS)}"
        )
    content = record(facts, composite=composite)
    info = PngImagePlugin.PngInfo()
    for key, value in content.items():
        if value is not None:
            text = "true" if value is True else str(value).replace("\0", "")
            info.add_text(_KEYWORDS[key], text)
    info.add_itxt(_XMP, _packet(content["digital_source_type"], content["software"]))
    ours = {*(word.encode() for word in _KEYWORDS.values()), _XMP.encode()}
    kept = [
        chunk
        for kind, chunk in _chunks(png)
        if kind not in _TEXTS or chunk[8:].split(b"\0", 1)[0] not in ours
    ]
    fresh = [_chunk(kind, data) for kind, data, *_ in info.chunks]
    return b"".join([png[:_HEADER], *fresh, *kept])


def synthetic(path: Path) -> dict[str, Any] | None:
    """What the mark on a file says.

    Args:
      path: an image of any kind that Pillow opens, of which XMP is read even if it is not ours; a
        sound; lines of texts; or the JSON, or the .npz, of a batch that `sample` made.

    Returns:
      `synthetic` (True), `digital_source_type` where it is known, and what else is said: in an
      image all texts, at most 1,000 characters each. None if the file has no such mark, which does
      not mean that it is not synthetic.

    Raises:
      UserError: if it can't be read.
    """
    check_path(path, "the file")
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    if path.suffix in (".wav", ".flac", ".ogg", ".jsonl"):
        said = _said(path)
        return said if isinstance(said, dict) and said.get("synthetic") is True else None
    if path.suffix in (".npz", ".json"):
        beside = path.with_suffix(".json")
        batch = read_json(beside) if beside.is_file() else None
        return batch if isinstance(batch, dict) and batch.get("synthetic") is True else None
    texts = _texts(path)
    facts: dict[str, Any] = {
        key: str(texts[word])[:1000] for key, word in _KEYWORDS.items() if word in texts
    }
    packet = texts.get("xmp", texts.get(_XMP, ""))
    packet = packet.decode(errors="replace") if isinstance(packet, bytes) else str(packet)
    kind = _TYPE_IN_XMP.search(packet)
    if kind is not None and kind[1].lower().endswith("trainedalgorithmicmedia"):
        facts["digital_source_type"] = _TYPES + kind[1]
    elif facts.get("synthetic") != "true":
        return None
    return {**facts, "synthetic": True}


def _said(path: Path) -> Any:
    """The JSON in the comment of a sound file, or in the first line of a file of texts."""
    try:
        if path.suffix == ".jsonl":
            with path.open(encoding="utf-8") as lines:
                return json.loads(lines.readline(_LONGEST))
        import soundfile

        with soundfile.SoundFile(path) as file:
            return json.loads(file.comment)
    except (ValueError, RecursionError):  # a comment in other words
        return None
    except (OSError, RuntimeError) as error:  # soundfile's own is a RuntimeError
        raise UserError(f"{path} cannot be read: {error}") from error


def _texts(path: Path) -> dict[Any, Any]:
    """Whatever texts and XMP stand before the pixels of an image, which are not decoded."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow's, on what is odd about a file
            with Image.open(path) as image:
                return dict(image.info)
    except OSError as error:
        why = error.strerror or "it is no image, or a damaged one"
        raise UserError(f"{path} cannot be read: {why}") from error
    except (ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def _packet(source_type: str, software: str) -> str:
    """An XMP packet that says where an image comes from."""
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about=""'
        ' xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"'
        ' xmlns:xmp="http://ns.adobe.com/xap/1.0/"'
        f' Iptc4xmpExt:DigitalSourceType="{source_type}" xmp:CreatorTool="{software}"/>'
        '</rdf:RDF></x:xmpmeta><?xpacket end="r"?>'
    )


def _chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(type, bytes with length and checksum) of the chunks after the header; trailing bytes too."""
    at = _HEADER
    while at < len(png):
        end = at + 12 + int.from_bytes(png[at : at + 4], "big")
        yield png[at + 4 : at + 8], png[at:end]
        at = end


def _chunk(kind: bytes, data: bytes) -> bytes:
    import zlib

    checksum = zlib.crc32(kind + data).to_bytes(4, "big")
    return len(data).to_bytes(4, "big") + kind + data + checksum
