"""Orbax's own files are as `hyperface.orbax_layout` knows them, and nothing else is private."""

import ast
import re
from importlib.metadata import version
from pathlib import Path

import jax.numpy as jnp
import orbax.checkpoint as ocp
import pytest

import hyperface
from hyperface import orbax_layout

TREE = {"params": {"kernel": jnp.ones((4, 2)), "bias": jnp.zeros(2)}, "step": jnp.zeros((), int)}
PRIVATE = re.compile(r"_src\b|_METADATA|array_metadatas|orbax-checkpoint-tmp")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A checkpoint as a run saves it."""
    folder = tmp_path_factory.mktemp("checkpoints")
    handlers = {"state": ocp.StandardCheckpointHandler(), "meta": ocp.JsonCheckpointHandler()}
    with ocp.CheckpointManager(folder, item_handlers=handlers) as manager:
        items = {"state": ocp.args.StandardSave(TREE), "meta": ocp.args.JsonSave({"step": 1})}
        manager.save(1, args=ocp.args.Composite(**items))
        manager.wait_until_finished()
    return folder / "1"


def test_orbax_still_gives_its_files_the_names_of_orbax_layout(checkpoint):
    files = [path.relative_to(checkpoint) for path in checkpoint.rglob("*") if path.is_file()]
    assert len(files) > 4
    foreign = [path.as_posix() for path in files if not orbax_layout.is_of_orbax(path)]
    found = version("orbax-checkpoint")
    assert foreign == [], f"orbax-checkpoint {found} has names that orbax_layout does not know"
    assert not orbax_layout.is_of_orbax(Path("state/d/notes.txt"))


def test_orbax_still_fills_a_folder_of_the_suffix_of_orbax_layout():
    assert ocp.utils.TMP_DIR_SUFFIX == orbax_layout.UNFINISHED


def test_orbax_still_records_arrays_as_orbax_layout_reads_them(checkpoint):
    """A damaged name in these files would else be restored as if nothing had happened."""
    state = checkpoint / "state"
    wanted = {"params.kernel", "params.bias", "step"}
    assert orbax_layout.recorded_arrays(state) == wanted
    (path,) = (state / "array_metadatas").glob("process_*")
    path.write_text(path.read_text().replace('"array_metadatas"', '"array_metadatos"'))
    with pytest.raises(ValueError, match="not as Orbax writes it"):
        orbax_layout.recorded_arrays(state)
    assert orbax_layout.recorded_arrays(checkpoint / "meta") == set()


def test_no_other_module_uses_private_parts_of_jax_or_orbax():
    root = Path(hyperface.__file__).parent
    for path in root.rglob("*.py"):
        if path.name == "orbax_layout.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [getattr(node, "module", None), *(a.name for a in getattr(node, "names", [])
                     if isinstance(a, ast.alias))]  # fmt: skip
            value = node.value if isinstance(node, ast.Constant) else None
            is_text = isinstance(value, str) and "\n" not in value
            for text in [*filter(None, names), *([value] if is_text else [])]:
                assert not PRIVATE.search(text), f"{path}: {text}"
