"""What is no name, no file, no number: values that flags of many commands refuse."""

from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

Pool = list[Any]

LONG = "x" * 300  # longer than a file's name can be
NOT_A_FILE: Pool = [".", "file/below", "a\0b", LONG, "full", "/proc/nothing/here", "\udcff"]
NO_RUN: Pool = ["nowhere", "file", "file/below", "a\0b", "full", LONG, "classifier/config.json"]
NO_NAME: Pool = ["", " ", "LeNet5", "lenet5 ", "a\nb", "\x1b[31m", "\u202ered", "x" * 5000, "a\0b"]
NO_NAME += ["../../etc/passwd", "None", "é", "\udcff", "$HOME", "*", "-", "lenet5,lenet5", "%s{0}"]
NO_DATA: Pool = [*NO_NAME, "folder:", "folder:nowhere", "folder:file", "folder:full", "folder:a\0b"]
NO_DATA += ["folder:~no-such-user/x", "folder:\udcff", "digits:", "tfds:", f"folder:{LONG}"]
NO_DATA += ["tfds:no_such_data_set", "tfds:../../x", "tfds:mnist:99.0.0", "tfds:a b"]

#: Fields that a DCGAN has not, or values that they can't have.
NO_FIELDS: Pool = [("",), ("=",), ("blocks",), ("blocks=3",), ("norm=1",), ("embedding_size=0",)]
NO_FIELDS += [("dropout=2",), ("dropout=nan",), ("embedding_size=1e3",), ("name=x",), ("=1", "=1")]

#: No number, nor one and another.
NO_RAMP: Pool = ["", ":", "1:", ":1", "a:b", "1:2:3", "0.1:-1", "nan:1", "0.1:inf", "1:1e39", "1,2"]
NO_SWEEP: Pool = ["gamma", "gamma=", "gamma=1", "gamma=1,1", "gamma=1,a", "gamma=1,nan", "=1,2"]
NO_SWEEP += ["width=1,2", "epochs=1,2", "gamma=-1,1", "batch_size=16,32", "gamma=1,1.00000001"]
NO_SWEEP += ["path_length_weight=1,2"]
NO_SWEEP += ["lecam-weight=-1,0", "augment_probability=0,1", "auxiliary_weight=0,1", "gamma=1,,2"]

#: Of a dcgan, whose channels follow from one number.
NO_WIDTHS: Pool = [(0,), (-1,), (64, 32), (10**5,), (10**30,), (8,) * 9]
NO_STAGES: Pool = [(-1,), (1, 9), (10**30,)]


def options(hint: Any) -> tuple[Any, ...]:
    """The types that a field of this type can have."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def is_closed(hint: Any) -> bool:
    """Whether the parser of the command line knows every value that a field can have."""
    closed = (bool, type(None))
    return all(one in closed or get_origin(one) is Literal for one in options(hint))


def is_float(hint: Any) -> bool:
    """Whether a type is a number with a point, or may be one."""
    return float in options(hint)


#: What an error calls a field, where it calls it by neither its name nor its flag nor its value.
CALLED = {
    "cutout": ["cutout"],
    "score_epochs": ["--score-epochs"],
    "validation_fraction": ["fraction"],
    "warmup": ["warm-up"],
    "json": ["--json"],
    "image_size": ["image size", "images of", "GAN needs images", "--image-size"],
    "micro_batches": ["divisible"],
    "channels": ["channels", "memory"],
    "steps_per_call": ["memory"],
    "generated": ["exported", "jaxnets export", "run folder", "folder of a run", "named twice"],
    "batch_size": ["batch size", "memory"],
    "labels_per_class": ["examples of each class"],
    "per_class": ["examples of each class", "--per-class"],
    "discriminator_steps": ["batch size"],
    "count": ["images need"],
    "interpolate": ["images need"],
    "style_mixing": ["styles"],
    "crop_padding": ["crop padding"],
    "judge": ["--judge"],
    "path": ["mark"],
    "key": ["key"],
    "watermark": ["key"],
    **{key: ["widths", "channels"] for key in ("generator_widths", "discriminator_widths")},
    **{key: ["no stage"] for key in ("generator_attention", "discriminator_attention")},
}
