"""The layers point one way, read from the code's own imports; public names are documented."""

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import hyperface

ROOT = Path(hyperface.__file__).parent
HEAVY = {"flax", "optax", "orbax", "tensorflow_datasets", "grain", "matplotlib", "tyro", "rich"}

BASE = {"archives", "arrays", "console", "errors", "extras", "files", "orbax_layout", "owned"}
"""Single modules that know nothing of faces: errors, files and what is written to the terminal."""

# What each package may import of hyperface beside itself, and of the heavy packages.
MAY_IMPORT = {
    **dict.fromkeys(BASE, (BASE, {"rich"})),
    "rules": (set(), set()),
    "shapes": (set(), set()),
    "normalize": ({"rules", "shapes"}, set()),
    "theory": ({"normalize", "shapes"}, set()),
    "reference": ({"shapes"}, set()),
    "losses": ({"normalize", "rules", "shapes"}, set()),
    "config": ({"errors"}, set()),
    "experiments": ({"config", "errors", "files"}, set()),
    "devices": ({"errors"}, {"orbax"}),  # For its barrier, if there are several processes.
    "models": (BASE | {"config", "rules"}, {"flax"}),
    "heads": (BASE | {"config", "losses", "normalize", "theory"}, {"flax"}),
    "data": (BASE | {"config", "devices"}, {"grain", "tensorflow_datasets"}),
    "train": (
        BASE | {"config", "data", "devices", "heads", "losses", "models", "normalize", "theory"},
        {"flax", "optax", "orbax", "rich"},
    ),
    "metrics": (BASE, set()),
    "protocols": (BASE | {"metrics"}, set()),
    "evaluate": (
        BASE | {"config", "data", "devices", "losses", "metrics", "normalize", "protocols"},
        set(),
    ),
    "weights": (
        BASE | {"evaluate", "experiments", "models", "normalize", "train"},
        {"flax", "orbax"},
    ),
    "report": (BASE | {"data", "evaluate", "metrics", "protocols"}, {"matplotlib"}),
}
MAY_IMPORT["runs"] = (
    set(MAY_IMPORT) - {"heads", "losses", "reference", "theory"},
    {"flax", "rich", "tyro"},
)
MAY_IMPORT["reproduce"] = (set(MAY_IMPORT), HEAVY)
MAY_IMPORT["cli"] = ({"errors"}, set())
MAY_IMPORT["__main__"] = ({"cli"}, set())


def modules():
    for path in sorted(ROOT.rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix("__init__")
        if name:
            yield name.rstrip("."), path


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize(("name", "path"), list(modules()))
def test_imports_stay_within_the_layer(name, path):
    package = name.split(".")[0]
    assert package in MAY_IMPORT, f"{package} has no layer: add it to MAY_IMPORT"
    ours, heavy = MAY_IMPORT[package]
    for target in imported(path):
        top, *below = target.split(".")
        assert top != "launch", f"{name} imports launch"
        if top == "hyperface" and below:
            assert below[0] in ours | {package}, f"{name} imports {target}"
        elif top in HEAVY:
            assert top in heavy, f"{name} imports {target}"


def own_scripts():
    return [path for folder in (ROOT, ROOT.parent / "benchmarks") for path in folder.rglob("*.py")]


def imported_names(nodes):
    """The names under which import statements bind what they import."""
    for node in nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from ((alias.asname or alias.name).split(".")[0] for alias in node.names)


@pytest.mark.parametrize("path", own_scripts(), ids=lambda path: path.stem)
def test_no_local_name_hides_an_import(path):
    """A line that is added to such a function later means one thing and gets the other."""
    tree = ast.parse(path.read_text())
    for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
        inside = list(ast.walk(function))
        local = {node.arg for node in inside if isinstance(node, ast.arg)}
        local |= {n.id for n in inside if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        hidden = local & {*imported_names(tree.body), *imported_names(inside)}
        assert not hidden, f"{function.name} hides {hidden}"


def module_imports():
    """Which of our modules each of our modules imports anywhere in it."""
    names = {f"hyperface.{name}": path for name, path in modules()}
    for name, path in names.items():
        found = {
            target if target in names else target.rpartition(".")[0] for target in imported(path)
        }
        yield name, found & set(names) - {name}


def test_no_module_imports_itself_by_way_of_others():
    left = dict(module_imports())
    while leaves := [name for name, targets in left.items() if not targets & set(left)]:
        for name in leaves:
            del left[name]
    assert not left, f"a circle of imports is among {sorted(left)}"


def test_only_devices_and_the_mapping_of_the_step_name_devices():
    for name, path in modules():
        if name not in ("train.parallel", "devices.mesh"):
            text = path.read_text()
            for word in ("pmap(", "shard_map(", "jax.make_mesh", "jax.devices", "local_devices("):
                assert word not in text, f"{name} has {word}"


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)


def test_importing_the_package_or_its_losses_loads_no_framework():
    for module in ("hyperface", "hyperface.losses, hyperface.reference, hyperface.theory"):
        code = f"import {module}, sys; print(sorted({HEAVY!r} & set(sys.modules)))"
        assert run_python(code).stdout.strip() == "[]"


PARSERS = {
    "reproduce": ("hyperface.reproduce", "command"),
    "torture": ("benchmarks.torture", "command"),
}
"""Where commands are that are not in `hyperface.runs`."""


WITHOUT = """if True:
    import importlib.util, sys
    from importlib.machinery import PathFinder

    class Hidden(PathFinder):
        @classmethod
        def find_spec(cls, name, path=None, target=None):
            if name.split(".")[0] in {hidden!r}:
                raise ModuleNotFoundError(name)

    find = importlib.util.find_spec
    importlib.util.find_spec = lambda name, *rest: None if name in {hidden!r} else find(name, *rest)
    sys.meta_path.insert(0, Hidden)
    {code}
"""


def test_an_installation_of_the_losses_alone_works_and_names_the_extra_for_more():
    hidden = {"flax", "optax", "orbax", "tyro", "rich", "matplotlib", "PIL", "sklearn"}
    code = "from hyperface import losses, reference, theory, l2_normalize; print(losses.softmax)"
    assert "softmax" in run_python(WITHOUT.format(hidden=hidden, code=code)).stdout
    for package in ("heads", "models", "data", "train", "report", "runs"):
        code = WITHOUT.format(hidden=hidden, code=f"import hyperface.{package}")
        ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert "pip install 'hyperface[train]'" in ended.stderr.splitlines()[-1], package
    code = WITHOUT.format(hidden=hidden, code="from hyperface import cli; cli.run('train', [])")
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)


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
        ("embed", ["--help"]),
        ("embed", ["photos", "--run", "r", "--out", "f.npz", "--checkpoint", "many"]),
        ("verify", ["--help"]),
        ("verify", ["a.jpg", "b.jpg", "--far", "low"]),
        ("reproduce", ["--help"]),
        ("reproduce", ["normface", "--list"]),
        ("reproduce", ["normface", "--steps", "many"]),
        ("sweep", ["--help"]),
        ("sweep", ["orl-ring", "loss.ring.weight=0.1,much"]),
        ("torture", ["--help"]),
    ],
)
def test_options_are_parsed_before_jax_is_loaded(module, arguments):
    package, module = PARSERS.get(module, ("hyperface.runs", module))
    code = f"""if True:
        import sys
        from {package} import {module}
        try:
            {module}.main({arguments})
        except SystemExit:
            pass
        print("jax" in sys.modules)
        """
    assert run_python(code).stdout.split()[-1] == "False"


def undocumented(module):
    """Public functions and classes of a module that lack a docstring of their own."""
    for name, thing in vars(module).items():
        ours = getattr(thing, "__module__", None) == module.__name__
        if ours and not name.startswith("_") and callable(thing):
            doc = inspect.getdoc(thing)
            # A dataclass without one gets its signature.
            if not doc or doc.startswith(f"{name}("):
                yield name


@pytest.mark.parametrize("name", [name for name, _ in modules()])
def test_public_names_are_documented(name):
    module = importlib.import_module(f"hyperface.{name}")
    assert module.__doc__, f"{name} has no docstring"
    assert not [*undocumented(module)]


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
