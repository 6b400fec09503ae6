"""A number of generated images together with what it means: without that it compares to nothing."""

import dataclasses

from jaxnets.errors import UserError

__all__ = ["Judgement"]


@dataclasses.dataclass(frozen=True)
class Judgement:
    """One score, and all that a score of another run must share to be compared with it.

    Printed, it is a line such as "kid 0.0123 +- 0.0004 (719 samples against 719 of digits, test;
    lenet5 trained on digits, weights c3bb7c05e65a; resize: none)".

    Attributes:
      name: of the metric, with its setting where it has one ("recall, k = 5").
      value: the number.
      spread: its standard error or its deviation over splits; None if it has none.
      extractor: where the features or logits are from.
      digest: of the extractor's weights (see `jaxnets.judge.evaluate.digest`).
      reference: data set and split of the real images.
      samples: how many images were generated.
      real: how many real images they were compared with; 0 for a score that looks at none.
      resize: how images came to the extractor's size: the filter, or "none".
      note: a sentence where the counts make the number worth little, or None.
    """

    name: str
    value: float
    spread: float | None = None
    _: dataclasses.KW_ONLY
    extractor: str
    digest: str
    reference: str
    samples: int
    real: int
    resize: str
    note: str | None = None

    def __post_init__(self) -> None:
        for field in ("name", "extractor", "digest", "reference", "resize"):
            if not getattr(self, field):
                raise UserError(f"a score without its {field} compares to nothing; name it.")
        if self.samples < 1 or self.real < 0:
            raise UserError(f"a score of {self.samples} samples and {self.real} real images.")

    def record(self) -> dict[str, str | int | float | None]:
        """Everything, flat, for a log or a JSON file."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        spread = "" if self.spread is None else f" +- {self.spread:.4g}"
        against = f" against {self.real:,} of {self.reference}" if self.real else ""
        note = "" if self.note is None else f"; {self.note}"
        return (
            f"{self.name} {self.value:.4g}{spread} ({self.samples:,} samples{against}; "
            f"{self.extractor}, weights {self.digest}; resize: {self.resize}{note})"
        )
