"""A CNN helps a GAN: nothing, matching, distillation and projection for the same minutes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from experiments import budget
from experiments.studies.cells import Cell, Column, conduct
from experiments.studies.configs import Teacher
from jaxnets.commands import classify, common, generate, judging, teaching, training
from jaxnets.commands.configs.classify import Classify
from jaxnets.commands.configs.generate import IMAGENET, NO_JUDGE, SHIPPED, SHIPPED_JUDGES, resolve
from jaxnets.commands.configs.generate import Generate as Options
from jaxnets.commands.configs.options import given
from jaxnets.commands.gan_step import Built
from jaxnets.commands.session import Session
from jaxnets.data import DataSet
from jaxnets.devices import parallel
from jaxnets.judge.scoring import Judge, Looks, take
from jaxnets.models import GENERATORS
from jaxnets.registry import check_name
from jaxnets.run import runs
from jaxnets.run.loop import fit
from jaxnets.run.task import Task

#: What a row does -> what `generate` is told beside the teacher.
WAYS: dict[str, dict[str, Any]] = {
    "none": {},
    "match": {"teach": "match"},
    "distil": {"teach": "distil"},
    "project": {"teach": "project"},
}

#: The teacher that is trained where no CNN of ImageNet is to be had for the images, and the judge
#: where none comes with jaxnets. They are different networks.
_TEACHER: dict[str, Any] = {"network": "lenet5", "width": 2.0, "epochs": 8.0}
_JUDGE: dict[str, Any] = {"seed": 1}

_COLUMNS = (
    Column("Frechet, by the judge", "frechet"),
    Column("precision", "precision", ".3f"),
    Column("recall", "recall", ".3f"),
    Column("Frechet, by the teacher", "frechet_by_teacher", ".4f"),
    Column("ms a step", "milliseconds", ".1f"),
)


def run(config: Teacher, session: Session) -> Path:
    """The command; gives the JSON file with the table."""
    for kind, names, known in (
        ("way of --ways", config.ways, WAYS),
        ("generator of --gans", config.gans, GENERATORS),
    ):
        for name in names:
            check_name(kind, name, known)
    name = f"teacher-{config.data.rpartition(':')[2].replace('/', '-')}"
    root = config.run_dir or Path("runs") / f"study-{name}"
    runs.open_run(root, "study", {"study": name})
    contest = _Contest(config, session, root)
    cells = [
        Cell({"gan": gan, "teacher": way}, seed, contest.values(gan, way))
        for seed in range(config.seeds)
        for gan in config.gans
        for way in config.ways
    ]
    about = {
        "data": config.data,
        "minutes": config.minutes,
        "judge": contest.judge.name,
        "teacher": f"{contest.teacher.name}, weights {contest.teacher.digest}",
        "seconds_per_step": contest.seconds,
    }
    return conduct(
        name, cells, contest.measure, _COLUMNS, run_dir=root, out=config.out, about=about
    )


@dataclasses.dataclass(frozen=True)
class _Contest:
    """What all trainings have in common."""

    config: Teacher
    session: Session
    root: Path

    @cached_property
    def mesh(self) -> Mesh:
        return parallel.make_mesh(1)

    @cached_property
    def dataset(self) -> DataSet:
        data = {"data": self.config.data, "image_size": self.config.image_size}
        return common.load_data(Options(**data), self.config.data)

    @cached_property
    def judge_run(self) -> Path:
        """The judge's folder, or name."""
        if self.config.judge is not None:
            return self.config.judge
        return SHIPPED if self.config.data in SHIPPED_JUDGES else self._trained("judge", _JUDGE)

    @cached_property
    def judge(self) -> Judge:
        return judging.load_judge(self.judge_run, self.dataset, self.mesh)

    @cached_property
    def teacher_run(self) -> Path:
        """The teacher's folder, or name: ImageNet's for colours, else a CNN for these images."""
        if self.config.teacher is not None:
            return self.config.teacher
        coloured = self.dataset.columns["inputs"].shape[-1] == 3
        return IMAGENET if coloured else self._trained("teacher", _TEACHER)

    @cached_property
    def teacher(self) -> teaching.Teacher:
        options = self._options("dcgan", "match", 0, 1.0)
        teacher = teaching.load(options, self.dataset)
        assert teacher is not None
        teacher.check_judge(self.judge)
        return teacher

    @cached_property
    def seconds(self) -> dict[str, float]:
        """Of a step of each training, by its name."""
        names = [f"{gan}-{way}" for gan in self.config.gans for way in self.config.ways]

        def built(name: str) -> tuple[Task, Options]:
            gan, way = name.split("-")
            options = self._options(gan, way, 0, 1.0)
            return self._built(options).task, options

        return budget.step_seconds(self.root / "budget.json", names, built, self.mesh)

    def values(self, gan: str, way: str) -> dict[str, Any]:
        """What the scores of a training depend on, besides its name and its seed."""
        options = self._options(gan, way, 0, 1.0)
        of_run = common.experiment_values(options)
        return {
            "steps": budget.steps_in(self.config.minutes, self.seconds[f"{gan}-{way}"]),
            "judge": self.judge.digest,
            "teacher": self.teacher.digest,
            "options": {k: v for k, v in of_run.items() if k not in ("epochs", "seed")},
        }

    def measure(self, cell: Cell, folder: Path) -> Mapping[str, float]:
        """One training, and what the judge and the teacher see in its samples."""
        gan, way, steps = cell.row["gan"], cell.row["teacher"], cell.values["steps"]
        train = len(self.dataset.splits["train"])
        images = steps * self._options(gan, way, cell.seed, 1.0).step_images
        options = self._options(gan, way, cell.seed, images / train)
        options = dataclasses.replace(options, run_dir=folder / "gan")
        built = self._built(options)
        training.open_run("generate", options, self.dataset, self.session, built)
        loop = training.fit_options(options, built.steps_per_epoch)
        result = fit(built.task, given(options.run_dir), self.mesh, loop)
        samples = built.samples_like(result.state, self.dataset.splits["test"].target)
        looks = Looks(self.judge, samples, self.dataset, built.train, options.conditional)
        by_teacher = dataclasses.replace(looks, judge=self._as_judge)

        def value(name: str, of: Looks) -> float:
            return float(take([name], of)[0].value)

        return {
            **{name: value(name, looks) for name in ("frechet", "precision", "recall")},
            "frechet_by_teacher": value("frechet", by_teacher),
            "milliseconds": 1e3 * self.seconds[f"{gan}-{way}"],
            "images": images,
        }

    @cached_property
    def _as_judge(self) -> Judge:
        """The teacher's features, of those that it teaches with."""
        return Judge.of(jax.jit(self.teacher.pooled), self.teacher.name, self.teacher.digest)

    def _built(self, options: Options) -> Built:
        return generate.build(options, self.dataset, self.mesh)

    def _options(self, gan: str, way: str, seed: int, epochs: float) -> Options:
        """The resolved config of a training."""
        teacher = {} if way == "none" else {"teacher": self.teacher_run, **WAYS[way]}
        asked = Options(
            data=self.config.data,
            image_size=self.config.image_size,
            generator=gan,
            seed=seed,
            epochs=epochs,
            eval_every=0.0,
            judge=NO_JUDGE,  # all are judged alike, and at the end
            accuracy_score=False,
            pictures=False,
            **teacher,
        )
        return generate.suited(asked, resolve(asked), self.dataset)

    def _trained(self, name: str, options: Mapping[str, Any]) -> Path:
        """A CNN of the data's training images."""
        folder = self.root / name
        if not (folder / "summary.json").exists():
            config = Classify(data=self.config.data, image_size=self.config.image_size)
            config = dataclasses.replace(config, run_dir=folder, **options)
            classify.run(config, self.session)
        return folder
