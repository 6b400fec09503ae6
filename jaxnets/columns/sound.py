"""The column of sounds: mono waves of one rate and one length."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnets.files import write_files
from jaxnets.media.provenance import of_each, record
from jaxnets.media.report import Audio, grid_png
from jaxnets.nn.frontends import LogMel

__all__ = ["Sound"]

_SCALE = 32768


@dataclass(frozen=True)
class Sound:
    """Sounds, stored as int16 [N, length]; networks see float32 in [-1, 1].

    Attributes:
      rate: samples a second.
      length: samples of each.
    """

    rate: int
    length: int

    kind = "sound"
    stored = np.dtype(np.int16)
    dtype = np.dtype(np.float32)

    @property
    def shape(self) -> tuple[int]:
        """Of one sound."""
        return (self.length,)

    def check(self, rows: np.ndarray, where: str) -> None:
        """Every value of 16 bits is a sample."""

    def decode(self, rows: Any) -> Any:
        """int16 to float32 in [-1, 1), exactly; of NumPy or JAX."""
        return rows.astype(np.float32) * np.float32(1 / _SCALE)

    def encode(self, values: Any) -> Any:
        """The inverse of `decode`: rounded, clipped outside [-1, 1), NaN becomes silence."""
        xp = jnp if isinstance(values, jax.Array) else np
        levels = (values * _SCALE).round().clip(-_SCALE, _SCALE - 1)
        return xp.where(xp.isnan(levels), 0, levels).astype(np.int16)

    def show(self, rows: np.ndarray, names: Sequence[str] | None = None) -> Audio:
        """A player and a spectrogram of each sound: time runs to the right, pitch upwards."""
        frontend = LogMel(self.rate, window=min(0.032, self.length / self.rate))
        clips = []
        for place, row in enumerate(rows):
            picture = np.asarray(frontend.apply({}, self.decode(row[None]))) / 3
            picture = picture.transpose(0, 2, 1, 3)[:, ::-1]
            name = str(place) if names is None else names[place]
            clips.append((name, _wav(row, self.rate), grid_png(picture, 1, scale=2)))
        return Audio(clips)

    def write(
        self,
        rows: np.ndarray,
        folder: Path,
        about: Mapping[str, Any],
        labels: Sequence[str | int] | None = None,
    ) -> list[Path]:
        """Writes a WAV for each sound, 000000.wav and so on; its comment is the mark, as JSON."""
        files = {
            folder / f"{i:06}.wav": _wav(rows[i], self.rate, json.dumps(record(facts)))
            for i, facts in enumerate(of_each(about, labels, len(rows)))
        }
        write_files(files)
        return list(files)

    def noise(self, count: int, seed: int) -> np.ndarray:
        """White noise as loud as can be."""
        rng = np.random.default_rng(seed)
        return rng.integers(-_SCALE, _SCALE, (count, self.length), np.int16)

    def statistics(self, rows: np.ndarray) -> dict[str, Any]:
        """`seconds` of each, `level` (root of the mean square), `silent` and `clipped` sounds."""
        peaks = np.abs(rows.astype(np.int32)).max(axis=1)
        return {
            "seconds": self.length / self.rate,
            "level": float(np.sqrt(np.square(rows / _SCALE).mean())),
            "silent": int((peaks == 0).sum()),
            "clipped": int((peaks >= _SCALE - 1).sum()),
        }


def _wav(row: np.ndarray, rate: int, comment: str = "") -> bytes:
    import soundfile

    buffer = io.BytesIO()
    with soundfile.SoundFile(buffer, "w", rate, 1, "PCM_16", format="WAV") as file:
        if comment:
            file.comment = comment
        file.write(row)
    return buffer.getvalue()
