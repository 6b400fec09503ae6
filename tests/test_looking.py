"""What `sample` draws beside samples: the same ones at several truncations, and mixed styles."""

import numpy as np
import pytest
from PIL import Image

from command_lines import GENERATE, assert_one_error, run
from jaxnets.commands import sample
from jaxnets.errors import UserError


def test_the_numbers_of_a_sweep():
    assert sample.truncations(None) == []
    assert sample.truncations("0.3, 1") == [0.3, 1.0]
    for text in ("", "0", "1.01", "0.5,,1", "nan", "a", "-0.5"):
        with pytest.raises(UserError, match="takes numbers in"):
            sample.truncations(text)
    with pytest.raises(UserError, match="has 33 numbers"):
        sample.truncations(",".join(["0.5"] * 33))


def test_a_sweep_of_any_family(cli, copies, workplace):
    command = ["sample", copies["generate"], "--count", 3, "--out", "here"]
    code, out, err = cli(*command, "--truncation-sweep", "0.2,1.0")
    assert code == 0 and "truncation: here-truncation.png" in out, err
    with Image.open("here-truncation.png") as picture:
        wide, high = picture.size
    assert high < wide, "2 rows of 3"
    before = sorted(p.name for p in workplace.iterdir())
    assert_one_error(cli(*command, "--truncation-sweep", "0.2,2"), "(0, 1]", "'2'")
    assert_one_error(cli(*command, "--style-mixing", 0), "--style-mixing must be in 1..6")
    assert_one_error(cli(*command, "--style-mixing", 1), "stylegan2", after_progress=True)
    assert sorted(p.name for p in workplace.iterdir()) == before


def test_a_report_shows_what_lies_between_samples_and_beside_them(copies):
    report = (copies["generate"] / "report.html").read_text()
    for caption in ("Between latents", "truncated to so much"):
        assert caption in report
    assert "Styles mixed" not in report, "a dcgan has none"
    with Image.open(copies["generate"] / "samples" / "report-walk.png") as walk:
        assert walk.n_frames == 32  # type: ignore[attr-defined]
        first = np.asarray(walk.convert("L"))
        walk.seek(16)
        assert np.any(first != np.asarray(walk.convert("L")))


@pytest.mark.slow
@pytest.mark.parametrize("conditional", ["conditional", "no-conditional"])
def test_styles_of_a_run_are_mixed(conditional, workplace, cli):
    flags = f"--generator stylegan2 --width 0.02 --{conditional} --run-dir gan"
    run(GENERATE, flags)
    code, out, err = cli(
        "sample",
        "gan",
        "--count",
        4,
        "--style-mixing",
        1,
        "--truncation-sweep",
        "0.5",
        "--out",
        "x",
    )
    assert code == 0 and "mixing: x-mixing.png" in out, err
    with Image.open("x-mixing.png") as picture:
        wide, high = picture.size
    assert high > 4 * 64 and wide > 4 * 64 and np.isclose(high, wide, atol=200)
    error = cli("sample", "gan", "--style-mixing", 2)
    assert_one_error(error, "stages 1 to 1, got 2", after_progress=True)
