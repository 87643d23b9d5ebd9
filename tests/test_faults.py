"""The list of planted faults stays true when code moves. `benchmarks/faults.py` plants them."""

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FAULTS = tomllib.loads((ROOT / "tests" / "faults.toml").read_text())["fault"]


def defined(path: Path) -> set[str]:
    """Names of the functions at the top of a file."""
    return {node.name for node in ast.parse(path.read_text()).body if hasattr(node, "name")}


@pytest.mark.parametrize(
    "fault", FAULTS, ids=lambda fault: f"{fault['file']}: {fault['user'][:40]}"
)
def test_a_planted_fault_fits_the_code(fault):
    source = (ROOT / fault["file"]).read_text()
    assert source.count(fault["text"]) == 1, "expected the text once: move the fault with the code"
    changed = source.replace(fault["text"], fault["becomes"])
    if fault["file"].endswith(".py"):
        assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(source))
    assert fault["user"].endswith(".")
    for test in fault["tests"]:
        file, _, name = test.partition("::")
        assert (ROOT / file).is_file(), test
        assert not name or name.partition("[")[0] in defined(ROOT / file), test


def test_no_fault_is_listed_twice():
    places = [(fault["file"], fault["text"], fault["becomes"]) for fault in FAULTS]
    assert len(set(places)) == len(places)
