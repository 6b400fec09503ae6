"""The notebooks, executed from top to bottom at a tiny size."""

import ast
import json
import math
import os
import sys
from pathlib import Path

import pytest

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "notebooks" / "cnn_and_gan.ipynb"

TINY = {
    "CNN_STEPS": 4,
    "CNN_BATCH": 16,
    "GAN_STEPS": 4,
    "GAN_BATCH": 16,
    "STEPS_PER_CALL": 2,
    "LABELS_PER_CLASS": 2,
    "SEED": 0,
}
SHARES = ["accuracy", "recognised", "taught_accuracy", "few_accuracy", "helped_accuracy"]
DISTANCES = ["samples", "floor", "ceiling"]


#: Notebooks of commands -> their parameters at a tiny size, and what their outputs must tell.
COMMANDS = {
    "classify_your_images": (
        {"FOLDER": "'pictures'", "IMAGE_SIZE": 16, "EPOCHS": 1, "DRAWN": 24},
        ["circle 19", "test accuracy", "pictures/circle/0000.png: ", "['"],
    ),
    "generate_images": (
        {"DATA": "'digits'", "OPTIONS": "''", "EPOCHS": 0.1},
        ["Frechet distance", "16 samples of 3", "8 images", '"frechet_judge": "speed_net'],
    ),
    "cnn_and_gan_together": (
        {
            "DATA": "'digits'",
            "LABELS": 5,
            "RARE": "'3'",
            "COUNT": 10,
            "CNN_STEPS": 60,
            "GAN_EPOCHS": 5,
        },
        ["fixmatch: ", "with-samples: recall of 3", "taught: Frechet distance", "'auroc': "],
    ),
}


def read(path=NOTEBOOK):
    return nbformat.read(path, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def the_parameters(notebook):
    (cell,) = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    return cell


def assigned(source):
    """Names that the lines of a cell assign."""
    targets = [t for node in ast.parse(source).body for t in getattr(node, "targets", [])]
    return {name.id for t in targets for name in ast.walk(t) if isinstance(name, ast.Name)}


@pytest.mark.parametrize("name", ["cnn_and_gan", *COMMANDS])
def test_nothing_is_stored_that_a_run_makes(name):
    notebook = read(NOTEBOOK.with_stem(name))
    nbformat.validate(notebook)
    for cell in code_cells(notebook):
        assert cell.outputs == []
        assert cell.execution_count is None


@pytest.mark.parametrize("name", ["cnn_and_gan", *COMMANDS])
def test_all_sizes_are_in_the_cell_of_parameters(name):
    parameters = assigned(the_parameters(read(NOTEBOOK.with_stem(name))).source)
    assert parameters == set(TINY if name == "cnn_and_gan" else COMMANDS[name][0])


def execute(notebook, folder):
    """Runs all cells in a folder, on two devices."""
    flags = "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=1"
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": flags,
        # The same CNN is trained four times and the same GAN twice; each compiles once.
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "JAXNETS_CACHE": str(folder / "data"),
        "IPYTHONDIR": str(folder / "ipython"),
    }
    client = nbclient.NotebookClient(
        notebook,
        timeout=600,
        startup_timeout=60,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute(env=environment)  # raises CellExecutionError, with the traceback of the cell


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The notebook after a run on two devices, and numbers that it left behind."""
    notebook = read()
    the_parameters(notebook).source = "\n".join(f"{name} = {value}" for name, value in TINY.items())
    shares = ", ".join(f"{name!r}: float({name})" for name in SHARES)
    distances = ", ".join(f"{name!r}: scores.{name}" for name in DISTANCES)
    ending = f"import json\nprint(json.dumps({{{shares}, {distances}}}))"
    notebook.cells.append(nbformat.v4.new_code_cell(ending))

    execute(notebook, tmp_path_factory.mktemp("notebook"))
    numbers = json.loads(notebook.cells[-1].outputs[0].text)
    return notebook, numbers


def outputs_of(notebook, mime):
    data = [o.data for c in code_cells(notebook) for o in c.outputs if "data" in o]
    return [d[mime] for d in data if mime in d]


@pytest.mark.slow
def test_a_reader_sees_grids_curves_and_a_confusion_matrix(executed):
    notebook, _ = executed
    assert len(outputs_of(notebook, "image/png")) == 3  # digits, doubtful ones, samples
    drawings = outputs_of(notebook, "text/html")
    assert len(drawings) == 3  # the CNN's curves, its confusion matrix, the GAN's curves
    assert all(drawing.startswith("<svg") for drawing in drawings)


@pytest.mark.slow
def test_the_numbers_are_numbers(executed):
    _, numbers = executed
    assert all(0.0 <= numbers[name] <= 1.0 for name in SHARES), numbers
    assert all(math.isfinite(numbers[name]) for name in DISTANCES), numbers
    assert numbers["floor"] < numbers["ceiling"]


@pytest.mark.slow
def test_a_run_gives_no_warnings_and_names_the_devices(executed):
    notebook, _ = executed
    streams = [o for c in code_cells(notebook) for o in c.outputs if o.output_type == "stream"]
    # XLA's own log lines, on slow compilations say, also end up here, and are not ours.
    assert not [o.text for o in streams if o.name == "stderr" and "Warning" in o.text]
    assert "2 x cpu" in "".join(o.text for o in streams if o.name == "stdout")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", COMMANDS)
def test_a_notebook_of_commands_runs(name, tmp_path):
    notebook = read(NOTEBOOK.with_stem(name))
    parameters, told = COMMANDS[name]
    the_parameters(notebook).source = "\n".join(f"{k} = {v}" for k, v in parameters.items())
    execute(notebook, tmp_path)
    streams = [o for c in code_cells(notebook) for o in c.outputs if o.output_type == "stream"]
    text = "".join(o.text for o in streams)
    for words in told:
        assert words in text, text[-3000:]
    assert "error: " not in text and "Warning" not in text
    pictures = {"classify_your_images": 2, "generate_images": 4, "cnn_and_gan_together": 1}
    assert len(outputs_of(notebook, "image/png")) == pictures[name]
