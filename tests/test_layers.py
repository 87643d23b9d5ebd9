"""The layers point one way, read from the code's own imports; public names are documented."""

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import hyperface

ROOT = Path(hyperface.__file__).parent
HEAVY = {"flax", "optax", "orbax", "tensorflow_datasets", "grain", "matplotlib", "tyro", "rich"}

# What each part may import of hyperface, and of the heavy packages.
MAY_IMPORT = {
    "errors": (set(), set()),
    "archives": ({"errors"}, set()),
    "arrays": ({"archives", "errors"}, set()),
    "files": ({"errors"}, set()),
    "owned": ({"errors", "files"}, set()),
    "console": (set(), {"rich"}),
    "compiler": (set(), set()),
    "rules": (set(), set()),
    "normalize": ({"rules"}, set()),
    "reference": (set(), set()),
    "objective": ({"errors"}, set()),
    "theory": ({"normalize"}, set()),
    "losses": ({"losses", "normalize", "rules"}, set()),
    "heads": ({"heads", "losses", "normalize", "objective", "theory"}, {"flax"}),
    "models": ({"models", "errors"}, {"flax"}),
    "data": ({"archives", "data", "errors", "files", "owned"}, {"tensorflow_datasets", "grain"}),
    "data.protocols": ({"archives", "data.protocols", "errors", "files"}, set()),
    "train.experiment": ({"errors", "objective"}, set()),
    "train.metrics": ({"files", "owned"}, set()),
    "train.profile": ({"owned"}, set()),
    "train.progress": ({"console"}, {"rich"}),
    "train.optim": ({"objective", "train.experiment", "train.rows"}, {"optax"}),
    "train.rows": ({"objective"}, set()),
    "train.sampled": ({"losses", "objective", "train.rows"}, set()),
    "train.state": (
        {"models", "heads", "train.experiment", "train.optim"},
        {"flax", "optax"},
    ),
    "train.step": (
        {
            "heads",
            "losses",
            "normalize",
            "objective",
            "theory",
            "train.guard",
            "train.rows",
            "train.sampled",
            "train.state",
        },
        {"optax"},
    ),
    "train.divergence": ({"train.distributed"}, set()),
    "train.guard": ({"train.optim"}, set()),
    "train.launchers": ({"errors"}, set()),
    "train.distributed": ({"train.launchers"}, set()),
    "train.memory": ({"errors", "losses", "train.rows", "train.state"}, set()),
    "train.traffic": ({"train.memory"}, set()),
    "train.parallel": (
        {"compiler", "data.images", "errors", "train.rows", "train.state", "train.step"},
        set(),
    ),
    "train.together": ({"evaluate.embed", "train.parallel"}, set()),
    "train.interrupt": ({"train.distributed"}, set()),
    "train.folder": ({"errors", "owned", "train.parallel"}, set()),
    "train.checksum": (set(), set()),
    "train.damage": ({"errors"}, set()),
    "train.contents": (
        {"errors", "train.checksum", "train.damage", "train.state"},
        {"flax"},
    ),
    "train.stored": (
        {"errors", "train.checksum", "train.contents", "train.damage", "train.state"},
        {"orbax"},
    ),
    "train.checkpoint": (
        {
            "errors",
            "owned",
            "train.checksum",
            "train.contents",
            "train.damage",
            "train.distributed",
            "train.state",
            "train.stored",
        },
        {"orbax"},
    ),
    "train.record": (
        {
            "data.datasets",
            "train.checkpoint",
            "train.distributed",
            "train.divergence",
            "train.experiment",
            "train.guard",
            "train.metrics",
            "train.optim",
            "train.parallel",
            "train.progress",
            "train.state",
        },
        {"rich"},
    ),
    "train.loop": ({"console", "data", "errors", "owned", "train"}, {"rich"}),
    "evaluate": (
        {
            "evaluate",
            "arrays",
            "compiler",
            "data",
            "errors",
            "files",
            "losses",
            "normalize",
            "objective",
            "train.experiment",
        },
        set(),
    ),
    "weights": ({"archives", "errors", "files", "models", "weights"}, {"flax"}),
    "weights.caffe": (set(), set()),
    "weights.runs": ({"errors", "train.checksum", "train.damage"}, {"flax", "orbax"}),
    "weights.export": (
        {"weights", "models", "errors", "normalize", "evaluate.embed"},
        {"flax"},
    ),
    "report": (
        {"report", "evaluate", "owned", "data.cleaning", "data.overlap"},
        {"matplotlib"},
    ),
}


def modules():
    for path in sorted(ROOT.rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix("__init__")
        if name.rstrip(".") not in ("", "train"):
            yield name.rstrip("."), path


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part_of(name, parts):
    fitting = [part for part in parts if name == part or name.startswith(part + ".")]
    return max(fitting, key=len, default=None)


@pytest.mark.parametrize(("name", "path"), list(modules()))
def test_imports_stay_within_the_layer(name, path):
    part = part_of(name, MAY_IMPORT)
    assert part, f"{name} has no layer: add it to MAY_IMPORT"
    ours, heavy = MAY_IMPORT[part]
    for target in imported(path):
        top = target.split(".")[0]
        assert top != "launch", f"{name} imports launch"
        if top == "hyperface":
            inner = target.removeprefix("hyperface.")
            assert part_of(inner, ours), f"{name} imports {target}"
        elif top in HEAVY:
            assert top in heavy, f"{name} imports {target}"


def test_only_parallel_names_devices():
    for name, path in modules():
        if name != "train.parallel":
            text = path.read_text()
            for word in ("pmap(", "shard_map(", "make_mesh", "jax.devices", "local_devices"):
                assert word not in text, f"{name} has {word}"


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)


def test_importing_the_package_or_its_losses_loads_no_framework():
    for module in ("hyperface", "hyperface.losses, hyperface.reference, hyperface.theory"):
        code = f"import {module}, sys; print(sorted({HEAVY!r} & set(sys.modules)))"
        assert run_python(code).stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("train", ["--help"]),
        ("train", ["--list"]),
        ("train", ["--list-models", "--steps", "many"]),
        ("train", ["--steps", "many"]),
        ("evaluate", ["--help"]),
        ("clean", ["--help"]),
        ("clean", ["faces", "--run", "r", "--out", "o", "--similarity", "high"]),
        ("export", ["--help"]),
        ("export", ["run", "--out", "out", "--step", "many"]),
        ("prepare", ["--help"]),
        ("reproduce", ["--help"]),
        ("reproduce", ["normface", "--list"]),
        ("reproduce", ["normface", "--steps", "many"]),
        ("sweep", ["--help"]),
        ("sweep", ["orl-ring", "loss.ring.weight=0.1,much"]),
        ("torture", ["--help"]),
    ],
)
def test_options_are_parsed_before_jax_is_loaded(module, arguments):
    code = f"""if True:
        import sys
        from launch import {module}
        try:
            {module}.main({arguments})
        except SystemExit:
            pass
        print("jax" in sys.modules)
        """
    assert run_python(code).stdout.split()[-1] == "False"


def public_objects():
    for info in pkgutil.walk_packages(hyperface.__path__, "hyperface."):
        module = importlib.import_module(info.name)
        yield info.name, module
        for name, thing in vars(module).items():
            ours = getattr(thing, "__module__", None) == info.name
            if ours and not name.startswith("_") and callable(thing):
                yield f"{info.name}.{name}", thing


@pytest.mark.parametrize(("name", "thing"), list(public_objects()))
def test_public_names_are_documented(name, thing):
    doc = inspect.getdoc(thing)
    assert doc, f"{name} has no docstring"
    assert not doc.startswith(f"{name.split('.')[-1]}("), f"{name} has a generated docstring"


@pytest.mark.parametrize("name", ["l2_normalize", "l2_norm", "cosine_similarity"])
def test_the_package_offers_its_names(name):
    assert callable(getattr(hyperface, name))
    assert name in dir(hyperface)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'softmax'"):
        _ = hyperface.softmax


LOSSES = [
    "a_softmax",
    "adaface",
    "batch_contrastive",
    "batch_triplet",
    "c_contrastive",
    "c_triplet",
    "center",
    "center_direction",
    "contrastive",
    "l_softmax",
    "magface",
    "magface_regularizer",
    "margin_softmax",
    "ring",
    "softmax",
    "triplet",
    "updated_centers",
    "updated_norm_statistics",
]


WITHOUT_A_NUMBER = ("adaface", "magface", "magface_regularizer", "updated_norm_statistics")
"""Losses that print their equations without the paper's numbers for them."""


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_documented_in_full(name):
    doc = getattr(hyperface.losses, name).__doc__
    for part in ("Args:", "Returns:", "Raises:", "Example:", "References:"):
        assert part in doc
    assert "Eq." in doc or name in WITHOUT_A_NUMBER
