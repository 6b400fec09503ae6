"""The shape of the code itself: what may import what, what is public, what help texts promise."""

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import jaxnets
from jaxnets import data, losses, models
from jaxnets.commands.configs import classify, generate, options, presets
from jaxnets.commands.flags import help_text
from jaxnets.commands.program import COMMANDS
from jaxnets.data import augment
from jaxnets.train import optimizers

ROOT = Path(__file__).parents[1]
LIBRARY = sorted((ROOT / "jaxnets").rglob("*.py"))
EXPERIMENTS = sorted((ROOT / "experiments").rglob("*.py"))

#: A folder, or a module beside them, imports only what stands before it.
ORDER = (
    *("errors", "typing", "files", "registry", "devices", "processes", "ops", "nn", "media"),
    *("columns", "data", "models", "metrics", "losses", "train", "judge", "run", "commands"),
)
RANK = {name: rank for rank, name in enumerate(ORDER)}


def name_of(path):
    return str(path.relative_to(ROOT))


def part_of(path):
    """The folder or module at the top of the package: "ops" for jaxnets/ops/pooling.py."""
    return path.relative_to(ROOT / "jaxnets").with_suffix("").parts[0]


def imported(path):
    """Every module that a file imports, anywhere in it, by its full name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)} imports relatively"
            # `from jaxnets import losses` names a module only in its second half.
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def test_every_folder_has_its_place():
    assert {part_of(path) for path in LIBRARY} - {"__init__"} == set(ORDER)


def test_imports_go_down():
    wrong = []
    for path in LIBRARY:
        modules = imported(path)
        own, parts = part_of(path), [module.split(".") for module in modules]
        used = {names[1] for names in parts if names[0] == "jaxnets" and len(names) > 1}
        if own == "__init__":
            continue  # the package itself; its names are imported on demand
        # The version is all that the package itself has, and it is no module.
        above = {other for other in used if other != own and RANK.get(other, -1) >= RANK[own]}
        above |= {"experiments"} & {names[0] for names in parts}
        wrong += [f"{name_of(path)} imports {other}" for other in sorted(above)]
    assert not wrong, "of what stands above or beside: " + ", ".join(wrong)


def test_there_is_no_circle_of_imports():
    paths = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path
        for path in [*LIBRARY, *EXPERIMENTS]
        if path.name != "__init__.py"
    }
    graph = {name: imported(path) & (paths.keys() - {name}) for name, path in paths.items()}
    while leaves := [name for name, others in graph.items() if not others & graph.keys()]:
        for name in leaves:
            del graph[name]
    assert not graph


def test_what_is_heavy_is_imported_where_it_is_needed():
    heavy = {"tensorflow_datasets", "tensorflow", "grain", "matplotlib", "sklearn", "orbax", "rich"}
    for path in LIBRARY:
        for node in ast.parse(path.read_text()).body:
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module is not None:
                names = [node.module]
            found = {name.split(".")[0] for name in names} & heavy
            # The builders are data sets of TensorFlow Datasets, and are themselves imported late.
            assert not found or path.name == "builders.py", f"{name_of(path)} imports {found}"


def test_public_names_resolve_and_are_documented():
    values = {name: getattr(jaxnets, name) for name in set(jaxnets.__all__) - {"__version__"}}
    assert not [name for name, value in values.items() if not inspect.getdoc(value)]
    homes = {name: value.__module__ for name, value in values.items()}
    assert not {name: home for name, home in homes.items() if not home.startswith("jaxnets")}
    assert not set(values) - set(dir(jaxnets))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="attribute make_clasifier"):
        jaxnets.make_clasifier  # noqa: B018


def faults_of(text):
    """What there is in a file that is too long, or not finished."""
    if (count := len(text.splitlines())) > 400:
        yield f"has {count} lines"
    for word in re.findall(r"\b(TODO|FIXME|XXX|HACK|raise NotImplementedError)\b", text):
        yield f"has a {word}"
    protocols = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno >= 80:
            yield f"has the long function {node.name}"
        if isinstance(node, ast.ClassDef) and "Protocol" in [ast.unparse(b) for b in node.bases]:
            protocols |= set(node.body)
        if isinstance(node, ast.FunctionDef) and node not in protocols:
            # The first line, or what comes first after a docstring.
            body = node.body[ast.get_docstring(node) is not None :][:1]
            if [ast.unparse(line) for line in body] in (["..."], ["pass"]):
                yield f"has a stub, {node.name}"


def test_files_are_short_and_finished():
    files = [*LIBRARY, *EXPERIMENTS]
    assert not [
        f"{name_of(path)} {fault}" for path in files for fault in faults_of(path.read_text())
    ]


def python(*arguments):
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    )


def test_importing_the_package_costs_nothing():
    code = "import sys, jaxnets; print(*(m.split('.')[0] for m in sys.modules))"
    loaded = set(python("-c", code).stdout.split())
    assert "jaxnets" in loaded
    assert not loaded & {"jax", "flax", "numpy", "tensorflow", "tensorflow_datasets", "orbax"}


CONFIGS = [name_of(path) for path in LIBRARY if path.parent.name == "configs"]
HEAVY = {"jax", "jaxlib", "flax", "optax", "orbax", "numpy", "tensorflow", "matplotlib"}


@pytest.mark.parametrize(
    "command", ["", *COMMANDS, "data show", "bench", "bench gan", "chaos", "families", "reproduce"]
)
def test_help_does_not_wait_for_jax(command):
    """Nor do the modules of the configs, all of which are imported first."""
    modules = [name.removesuffix(".py").replace("/", ".") for name in CONFIGS]
    code = f"""
import importlib, sys
for name in {modules}:
    importlib.import_module(name)
from experiments.__main__ import commands
try:
    commands.parse({[*command.split(), "--help"]})
except SystemExit:
    print(*(name.split(".")[0] for name in sys.modules))
"""
    *shown, loaded = python("-c", code).stdout.splitlines()
    assert not set(loaded.split()) & HEAVY
    assert "usage: " in shown[0]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_flags_of_a_newcomer_stand_before_the_groups(command):
    out = python("-X", "utf8", "-m", "experiments", command, "--help").stdout
    first = out.partition("╭─ options ─")[2].partition("╰")[0]
    assert 1 <= len(re.findall(r"^│ --?\w", first, re.M)) <= 16  # -h, and fifteen
    for title in re.findall(r"╭─ (\w+) options ─", out):
        box = out.partition(f"╭─ {title} options ─")[2].partition("╰")[0]
        assert "───" in box, f"the {title} options have no description"


def listed(text):
    """The names of "a, b or c" at the start of a text, or all of it up to the full stop."""
    (head,) = re.findall(r"^(?:\w+, )*\w+ or \w+|^\w+(?=\.)", text)
    return set(re.split(", | or ", head))


CLASSIFY, GENERATE = classify.Classify, generate.Generate
FLAGS = [
    (CLASSIFY, "network", models.CLASSIFIERS),
    (CLASSIFY, "optimizer", optimizers.OPTIMIZERS),
    (CLASSIFY, "schedule", optimizers.SCHEDULES),
    (CLASSIFY, "loss", losses.CLASSIFICATION_LOSSES),
    (GENERATE, "generator", models.GENERATORS),
    (GENERATE, "optimizer", optimizers.OPTIMIZERS),
    (GENERATE, "schedule", optimizers.SCHEDULES),
    (GENERATE, "loss", losses.ADVERSARIAL_LOSSES),
    (GENERATE, "penalty", {"none", *losses.PENALTIES}),
]


def test_help_lists_what_the_registry_has():
    for kind, field, registry in FLAGS:
        assert listed(help_text(kind, field)) == set(registry), field
        given = getattr(kind, field)
        if given is None:  # a preset's
            given = {**presets.DEFAULTS, **classify.PRESETS["default"]}[field]
        assert given in registry, field


def test_help_lists_augmentations_discriminators_and_data_sets():
    head, names = help_text(GENERATE, "augment").rstrip(".").split("any of ")
    assert set(names.split(",")) == set(augment.GAN_AUGMENTATIONS)
    own = set(models.DISCRIMINATORS) - set(models.CLASSIFIERS)
    names, rest = help_text(GENERATE, "discriminator").split(", or ")
    assert set(names.split(", ")) == own and rest.startswith("any classifier")
    text = help_text(options.DataOptions, "data")
    assert set(re.findall(r"(\w+:?)[A-Z]*(?:, |$| \()", text.split(": ", 1)[1])) - {"or"} == (
        set(data.DATA_SOURCES) - {"objects:"}  # which has no classes to train on
    )


def test_presets_of_classify_name_data_sets_and_unset_fields():
    assert set(classify.PRESETS) <= {"default", *data.DATA_SOURCES}
    for preset in classify.PRESETS.values():
        assert set(preset) <= set(classify.PRESETS["default"])
        # A preset can fill only what is None until the user sets it.
        assert all(getattr(CLASSIFY, name) is None for name in preset)


def test_presets_of_generate_fill_fields_that_are_unset():
    assert set(presets.DATA) <= set(data.DATA_SOURCES)
    assert set(presets.FAMILIES) == set(models.GENERATORS)
    for values in [presets.DEFAULTS, *presets.FAMILIES.values(), *presets.DATA.values()]:
        assert all(getattr(GENERATE, name) is None for name in values)
    for name, values in presets.PRESETS.items():
        assert all(getattr(GENERATE, field) is None for field in values)
        assert name.startswith(values["generator"] + "_")
