"""Command lines that no command can use: values of flags, and whole lines.

Every case is one that a docstring or a flag's help rules out. What is only unusual is not here: the
tests ask for exit code 2 of all of it.
"""

import dataclasses
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_origin, get_type_hints

from hostile_pools import (
    CALLED,
    NO_DATA,
    NO_FIELDS,
    NO_NAME,
    NO_RAMP,
    NO_RUN,
    NO_STAGES,
    NO_SWEEP,
    NO_WIDTHS,
    NOT_A_FILE,
    Pool,
    is_closed,
    is_float,
    options,
)

from experiments.configs import Families, Reproduce
from jaxnets.commands.configs import classify, data, generate, quickstart, spot, use
from jaxnets.commands.configs.constraints import Range, constraints

SEED = 0
HUGE = 10**40

TRAIN: dict[str, Any] = {"data": "digits", "epochs": 0.05, "batch_size": 16, "devices": 1}

#: Command -> its config, that of a run of seconds. Relative paths are those that `furnish` makes.
#: Mistakes in the flags of benchmarks are in test_bench.py.
COMMANDS: dict[str, Any] = {
    "classify": classify.Classify(**TRAIN, network="lenet5", eval_every=1.0),
    "generate": generate.Generate(**TRAIN, width=0.1),
    "spot train": spot.SpotTrain(
        real="digits", generated=("folder:pictures",), epochs=0.05, devices=1
    ),
    "evaluate": use.Evaluate(Path("gan")),
    "report": use.Report(Path("gan")),
    "sample": use.Sample(Path("gan")),
    "export": use.Export(Path("gan"), Path("made")),
    "marks": use.Marks(Path("image.png"), key="1"),
    "data prepare": data.Prepare("digits"),
    "data show": data.Show("digits"),
    "reproduce": Reproduce("classify-digits"),
    "families": Families(data="digits", minutes=(0.001,), seeds=1),
    "quickstart": quickstart.Quickstart(devices=1),
    "list": use.List(),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """A value that a field cannot have, and of what the error must have one."""

    command: str
    field: str
    value: Any
    words: tuple[str, ...]

    @property
    def name(self) -> str:
        """Short and printable."""
        return f"{self.command} {self.field}={ascii(self.value)[:40]}"

    def config(self) -> Any:
        """The command's config with it."""
        return dataclasses.replace(COMMANDS[self.command], **{self.field: self.value})


def ruled_out(allowed: Range, hint: Any, draw: random.Random) -> Pool:
    """Numbers on both sides of what a flag's own constraint allows: near, far, and very far."""
    whole = int in options(hint)
    near, far, very_far = (1, draw.randrange(2, 10**6), HUGE) if whole else (1e-6, 37.5, 1e300)
    low = allowed.least if allowed.above is None else allowed.above
    high = allowed.most if allowed.below is None else allowed.below
    pool: Pool = []
    if low is not None:
        pool += [low - near, low - far, -very_far] + [low] * (allowed.above is not None)
    if high is not None:
        pool += [high + max(near, high * 1e-6), high + far, very_far]
        pool += [high] * (allowed.below is not None)
    numbers = pool if whole else map(float, pool)
    return [(number,) if tuple in map(get_origin, options(hint)) else number for number in numbers]


def _outside(low: float, high: float, draw: random.Random) -> Pool:
    """Numbers below `low`, and from `high` on."""
    far = draw.uniform(0, 1e3)
    return [low - 1e-3, low - far, high, high + far, -1e300, 1e300]


def pools(draw: random.Random) -> dict[str, Pool]:
    """Field -> values that it cannot have in any command that has it, for another reason than a
    constraint of its own."""
    few = [0, -1, -HUGE]
    negative = [-1e-9, -draw.uniform(0, 1e3), -1e300, 1e39]
    ramps = ["generator_learning_rate", "discriminator_learning_rate", "penalty_weight"]
    ramps += ["ema_half_life"]
    names = ["network", "optimizer", "schedule", "loss", "generator", "discriminator", "penalty"]
    return {
        **{name: [*negative, *NO_RAMP] for name in ramps},
        **dict.fromkeys((*names, "name"), NO_NAME),
        "batch_size": [HUGE],
        "latent_size": [*few, 2**20 + 1, HUGE],
        "count": [10**12, HUGE],
        "per_class": [10**9, HUGE],
        "labels_per_class": [*few, 10**6, HUGE],
        "rare": [("nothing=3",), ("3=0",), ("3=-1",), ("3=1000000",), ("3=1", "3=2"), ("",)],
        **{key: [Path(text) for text in NO_RUN] for key in ("add_samples", "keep_by")},
        "image_size": [(0,), (-1,), (10**6,), (HUGE,), (8, -HUGE), (8, 8, 8), ()],
        "background": ["no colour", " ", "#12", "x" * 5000, "\udcff"],
        "devices": [*few, 99, HUGE],
        "member": [*NO_NAME, "-1", "1", "9" * 30, "gamma=1", "=", ","],
        "class_label": [-1, -HUGE, 10, HUGE],
        "crop_padding": [-1, -HUGE, 8, HUGE],
        "cutout": [-1, -HUGE, 15, HUGE],
        **dict.fromkeys(("generator_widths", "discriminator_widths"), NO_WIDTHS),
        **dict.fromkeys(("generator_attention", "discriminator_attention"), NO_STAGES),
        **dict.fromkeys(("generator_fields", "discriminator_fields"), NO_FIELDS),
        **{key: [name for name in NO_NAME if name] for key in ("conditioning", "preset")},
        "sweep": [*(name for name in NO_NAME if name), *NO_SWEEP],
        "teacher": [Path(text) for text in NO_RUN],
        "best_by": NO_NAME,
        "freeze": NO_NAME,  # and no --init-from
        "init_from": [*NO_RUN, "imagenet", "hf:", "hf:a", "x.pth", "x.safetensors", "file/x.pt"],
        "epochs": [1e9, 1e30],
        "score_epochs": [0.0, -1.0, 1e12, 1e39],
        "width": [0.0, -1e-9, -1.0, 1e4, 1e30, 1e300],
        # Of one process; those of several are in test_meeting.py.
        "coordinator": ["localhost:1", "nowhere", "", "localhost:99999"],
        "process_count": [1, 2, 0, -HUGE],
        "process_id": [0, 1, -1, HUGE],
        "augment_probability": [-0.1, 1.1, 0.5, *NO_RAMP],  # without --augment
        "validation_fraction": _outside(1e-4, 1.0, draw),
        "warmup": _outside(0.0, 1.0, draw),
        "b2": [*_outside(0.0, 1.0, draw), *NO_RAMP],
        "augment": [name for name in NO_NAME if name.strip(" ,")],
        "data": NO_DATA,
        "run": [Path(text) for text in NO_RUN],
        "judge": [Path(text) for text in NO_RUN],
        "json": [Path(text) for text in NOT_A_FILE],
        "out": [Path(text) for text in NOT_A_FILE if text != "full"],
        "run_dir": [Path(text) for text in ("file", "file/below", "a\0b", "x" * 300, "full")],
        "wandb": ["a/b", "x:y", "#"],
        "data_dir": [Path(text) for text in ("file", "a\0b", "~no-such-user/x", "\udcff")],
        "runs": [Path(text) for text in ("file", "nowhere", "a\0b", "file/below")],
    }


def _own_pools() -> dict[tuple[str, str], Pool]:
    """Of fields that mean something else in a command than elsewhere."""
    return {
        ("marks", "path"): [Path(text) for text in (*NO_RUN, "gan", "\udcff", "/dev/null")],
        ("marks", "key"): ["", " ", "\n\t", "\udcff"],
        ("marks", "crop"): [-1, 64, -HUGE, HUGE],
        ("marks", "image_size"): [0, -1, 7, (8, 7), (8193, 8), HUGE],
        ("marks", "false_positive_rate"): [0.0, 1.0, -0.1, 1.5],
        ("sample", "watermark"): ["", " ", "\n\t", "\udcff"],
        **{(f"data {name}", "channels"): [0, 2, 4, -1, HUGE] for name in ("prepare", "show")},
        **{(f"data {name}", "name"): NO_DATA for name in ("prepare", "show")},
        ("data show", "out"): [Path(text) for text in NOT_A_FILE],
        ("sample", "interpolate"): [10**12, HUGE],
        ("sample", "style_mixing"): [0, -1, 10**12, HUGE],
        ("sample", "truncation_sweep"): ["", " ", "0", "1.5", "0.5,,1", "nan", "x" * 5000, "-1"],
        ("evaluate", "metrics"): [name for name in NO_NAME if name],
        ("generate", "metrics"): [name for name in NO_NAME if name],
        ("evaluate", "samples"): [1, 0, -1, HUGE],  # without --metrics
        ("families", "names"): [(name,) for name in NO_NAME] + [("dcgan", "dcgan")],
        ("families", "minutes"): [(1.0, 1.0)],
        ("spot train", "real"): NO_DATA,
        ("spot train", "generated"): [(), *((text,) for text in [*NO_RUN, "digits"])],
        ("reproduce", "out"): [Path(text) for text in NOT_A_FILE],
        ("reproduce", "run_dir"): [Path(text) for text in ("file", "file/x", "a\0b", "x" * 300)],
        ("reproduce", "judge"): [Path("gan"), Path("nowhere")],
    }


def fields() -> Iterator[tuple[str, str, Any]]:
    """(command, field, type) of every field of every command."""
    for command, config in COMMANDS.items():
        hints = get_type_hints(type(config))
        for field in dataclasses.fields(config):
            yield command, field.name, hints[field.name]


def values_of(each: int = 3) -> list[Case]:
    """Cases of every field of every command that is not closed.

    Args:
      each: values of a field, drawn by a fixed seed; NaN and infinity come on top.

    Raises:
      LookupError: for a field that no values are known of.
    """
    draw = random.Random(SEED)
    common, own = pools(draw), _own_pools()
    cases = []
    for command, field, hint in fields():
        pool = own.get((command, field), common.get(field))
        allowed = dict(constraints(COMMANDS[command], Range)).get(field)
        if allowed is not None:
            pool = list(dict.fromkeys([*ruled_out(allowed, hint, draw), *(pool or [])]))
        if pool is None and not (is_closed(hint) or is_float(hint)):
            raise LookupError(f"hostile.py knows no value that `{command}` refuses as {field}")
        chosen = draw.sample(pool, min(each, len(pool))) if pool else []
        if is_float(hint):
            chosen += [draw.choice([math.nan, math.inf, -math.inf])]
        cases += [Case(command, field, value, words_of(field, value)) for value in chosen]
    return cases


def shown(text: str) -> str:
    """A text as an error shows it."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def words_of(field: str, value: Any) -> tuple[str, ...]:
    found = [f"--{field.replace('_', '-')}", field, field.replace("_", " "), *CALLED.get(field, [])]
    if isinstance(value, str | Path):
        text = str(value)
        found += [shown(text)[:200]] if text.strip() else [repr(text), f'"{text}"']
        found += [shown(part)[:200] for part in text.partition(":")[2:] if part]
    else:
        found += [str(value)]
    return tuple(found)


# --------------------------------------------------------------------------- command lines

LINES: list[tuple[str, ...]] = [
    ("",),
    ("clasify",),
    ("classify digits",),
    ("classify --epoch",),
    ("classify --epochs",),
    ("classify --seed 1.5",),
    (f"classify --seed {'9' * 5000}",),
    ("classify --width 1,5",),
    ("classify --dtype float64",),
    ("classify --flip maybe",),
    ("classify --no-such-flag",),
    ("generate --conditional 3",),
    ("evaluate",),
    ("evaluate gan --accuracy-score maybe",),
    ("sample gan --count 1.0",),
    ("data",),
    ("data fetch digits",),
    ("data prepare digits --image-size 8x8",),
    # Flags that exclude each other, or that the data does not allow.
    ("classify --data digits --image-size 8", "takes no image size"),
    ("classify --data digits --channels 1", "takes no channels"),
    ("classify --data digits --patience 2 --eval-every 0", "--eval-every"),
    ("classify --data digits --keep-best 2 --batch-size 16 --devices 1", "--validation-fraction"),
    ("classify --data digits --network resnet18 --width 900 --batch-size 16", "memory"),
    ("classify --data digits --seed 2147483647 --seeds 2", "--seeds"),
    ("generate --data digits --discriminator resnet18 --batch-size 16 --devices 1", "--penalty"),
    ("generate --data digits --latent-size 1000000 --width 100 --batch-size 16", "memory"),
    ("generate --data digits --judge classifier --batch-size 16 --devices 1", "no checkpoint"),
    ("generate --data digits --judge gan --batch-size 16 --devices 1", "must be one of"),
    ("evaluate classifier --judge classifier", "--judge"),
    ("evaluate gan --judge none --no-accuracy-score", "--judge"),
    ("evaluate gan", "no checkpoint"),
    ("evaluate gan --judge none --metrics kid", "--judge"),
    ("evaluate gan --metrics kid,fid", '"fid"', "frechet, kid"),
    ("evaluate gan --metrics kid --samples 0", "--samples"),
    ("evaluate gan --samples 9", "--metrics"),
    ("evaluate classifier --metrics kid", "--metrics"),
    ("evaluate classifier", "no checkpoint"),
    ("report gan", "no numbers yet"),
    ("sample classifier", "samples need one of `generate`"),
    ("sample gan", "no checkpoint"),
    ("sample gan --images --out full", "notes.txt"),
    ("sample gan --images --out file", "is a file"),
    ("marks image.png --key",),
    ("inspect --method f-anogan", "folder:PATH"),
    ("inspect --data digits --method f-anogan", "folder:PATH"),
    ("inspect --data folder:full --method f-anogan", "no faultless picture"),
    ("inspect --data folder:nowhere --method f-anogan", "not there"),
    ("inspect --data folder:full --method f-anogan --image-size 0", "image size"),
    ("inspect --data folder:full --coreset 0.5", "--coreset needs --method patchcore"),
    ("inspect --data folder:full --method f-anogan --false-alarms 1", "--false-alarms"),
    ("inspect --data folder:full --features gan", "no checkpoint"),
    ("marks full", "holds no images"),
    ("reproduce classify-digits --judge classifier", "--judge"),
    ("reproduce classify-digitz", "classify-digits"),
    ("bench --max-ratio 2 population", "write --max-ratio after"),
    ("bench --compare nowhere nowhere gan", "write --compare after"),
    ("bench startup --command 'classify --help'", "must train"),
    ("bench startup --command 'list --run-dir x'",),
    ("bench input --data digits --network vgg11 --batch-size 16 --devices 1", "16x16"),
]
