"""Your own sounds: a folder with one sub-folder for each class, of WAV, FLAC, OGG or MP3 files."""

import logging
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxnets.columns.sound import Sound
from jaxnets.errors import UserError

__all__ = ["SoundFiles"]

logger = logging.getLogger(__name__)

#: Samples of a sound as networks see it: six minutes at 44.1 kHz.
MOST = 1 << 24
FEWEST = 16
USUAL = 95  # percentile of the lengths


class Header(NamedTuple):
    """What a sound file says of itself: samples a second, and how many."""

    rate: int
    frames: int


@dataclass(frozen=True)
class SoundFiles:
    """Sounds that libsndfile reads, mixed to one channel.

    Attributes:
      rate: samples a second; by default the most common one.
      seconds: of each sound; by default what 95 of 100 fit into. Of a longer one the middle is
        kept, a shorter one lies in the middle of silence.
    """

    what = "sound"

    rate: int | None = None
    seconds: float | None = None

    @property
    def decoder(self) -> str:
        """Libsndfile and its version."""
        import soundfile

        return f"libsndfile {soundfile.__libsndfile_version__}"

    def header(self, path: Path) -> Header | str:
        """The header of a sound file, or why it can't be used."""
        import soundfile

        if not path.is_file() or not path.stat().st_size:
            return "empty" if path.is_file() else "no regular file"
        try:
            info = soundfile.info(str(path), verbose=True)
        except (soundfile.SoundFileError, OSError) as error:
            return _reason(error)
        if info.frames < 1:
            return "no samples"
        # What libsndfile thinks of a header that promises more than the file holds.
        if "data :" in info.extra_info and "(should be" in info.extra_info.split("data :")[1]:
            return "damaged: it ends before its last sample"
        return Header(info.samplerate, info.frames)

    def column(self, headers: Sequence[Header], root: Path) -> Sound:
        """The most common rate, and what 95 of 100 sounds fit into, where nothing was asked for."""
        rate, seconds = self.rate, self.seconds
        rates = Counter(header.rate for header in headers)
        if rate is None:
            rate = max(rates, key=lambda each: (rates[each], each))
        if seconds is None:
            seconds = float(np.percentile([h.frames / h.rate for h in headers], USUAL))
        if not FEWEST <= seconds * rate <= MOST:
            raise UserError(
                f"{root}: {seconds:g} s at {rate} Hz are {seconds * rate:,.0f} samples; choose "
                f"--seconds and --rate for {FEWEST} to {MOST:,}"
            )
        return Sound(rate, round(seconds * rate))

    def notes(self, headers: Sequence[Header], column: Sound) -> list[str]:
        """What is resampled, and what is cut."""
        rates = Counter(header.rate for header in headers)
        others = [rate for rate in sorted(rates) if rate != column.rate]
        notes = []
        if others:
            count, of = sum(rates[rate] for rate in others), ", ".join(map(str, others[:5]))
            notes.append(f"{count:,} sounds of {of} Hz are resampled to {column.rate} Hz")
        seconds = column.length / column.rate
        long = sum(header.frames > header.rate * seconds * 1.01 for header in headers)
        if long:
            notes.append(
                f"of {long:,} longer sounds the middle {seconds:.2g} s are kept; --seconds says "
                "how much"
            )
        return notes

    def row(self, path: Path, column: Sound) -> np.ndarray | str:
        """[length] int16, or why the file can't be used; only the middle of a long file is read."""
        import soundfile
        from scipy.signal import resample_poly

        try:
            with soundfile.SoundFile(path) as file:
                wanted = math.ceil(column.length * file.samplerate / column.rate)
                first = max(0, (file.frames - wanted) // 2)
                count = min(wanted, file.frames)
                file.seek(first)
                wave = file.read(count, dtype="float32", always_2d=True).mean(axis=1)
                rate = file.samplerate
        except (soundfile.SoundFileError, OSError) as error:
            return _reason(error)
        if len(wave) < count:
            return "damaged: it ends before its last sample"
        if not np.isfinite(wave).all():
            return "a sample is not a number"
        if rate != column.rate:
            common = math.gcd(rate, column.rate)
            wave = resample_poly(wave, column.rate // common, rate // common)
        spare = max(0, column.length - len(wave))
        wave = np.pad(wave[: column.length], (spare // 2, spare - spare // 2))
        return column.encode(wave)


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return "not a sound file" if "not recognised" in text else f"damaged: {text[-80:]}"
