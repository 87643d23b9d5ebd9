"""Writes a run's embedder as files that other programs can use, and checks each.

    hyperface export runs/orl-normface --out exported
    hyperface export RUN --out FOLDER --format safetensors,stablehlo,onnx --mirror sum

Images in, features out. `embedder.safetensors` holds the backbone's weights, without what follows
it; `embedder.stablehlo` is a program that JAX runs without this library; `embedder.onnx` needs
jax2onnx and onnxruntime. Each is opened again and must give the features of the run.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from hyperface import owned
from hyperface.errors import InputError, unknown_name
from hyperface.runs import program

if TYPE_CHECKING:  # jax is loaded after the options are parsed.
    from hyperface.weights.runs import SavedBackbone

FORMATS = ("safetensors", "stablehlo", "onnx")

TOLERANCE = 1e-4
"""Largest difference of a feature that passes, beside the largest feature."""


@dataclasses.dataclass(frozen=True)
class Export:
    """Options of the command."""

    run: tyro.conf.Positional[Path]
    """Folder of a run, as hyperface train made it."""
    out: Path
    """Folder for the files."""
    format: str = "safetensors,stablehlo"
    """Which of safetensors, stablehlo and onnx, separated by commas."""
    step: int | None = None
    """Which checkpoint; the newest by default."""
    mirror: Literal["none", "sum", "max", "concat"] | None = None
    """How features of image and mirror image are merged; the experiment's way by default."""
    normalize: bool = True
    """Scale features to unit length at the end."""


def main(args: Sequence[str]) -> None:
    """Parses the options, then loads jax and exports."""
    options = tyro.cli(Export, args=args, prog="hyperface export", description=__doc__)
    formats = tuple(name.strip() for name in options.format.split(","))
    for name in formats:
        if name not in FORMATS:
            raise unknown_name("format", name, FORMATS)
    if options.out.exists() and not options.out.is_dir():
        raise InputError(f"--out: expected a folder, found the file {options.out}.")
    owned.check_free(*(options.out / f"embedder.{name}" for name in (*formats, "json")))
    from hyperface.weights import read_run

    program.quiet_libraries()
    saved = read_run(options.run, options.step)
    settings = {
        "mirror": options.mirror or saved.experiment["evaluation"]["mirror"],
        "normalize": options.normalize,
    }
    with owned.writing(options.out):
        _write(options.out, saved, settings, formats)


def _write(out: Path, saved: "SavedBackbone", settings: dict, formats: Sequence[str]) -> None:
    """Writes each file and checks it; one that gives other features is removed."""
    from hyperface.console import make_console, say
    from hyperface.weights import export, exported

    embed = export.make_embedder(saved, **settings)
    contents = {name: _content(name, embed, saved) for name in formats}
    # The record of an earlier export does not fit the new files, and would be compared with them.
    owned.remove(out / exported.NAME)
    record = {
        "model": saved.model,
        "step": saved.step,
        "input": ["batch", *saved.image_shape],
        "pixels": "(pixel - 127.5) / 128",
        "crop": saved.experiment["data"].get("crop"),
        **settings,
        "files": {},
    }
    for name, content in contents.items():
        path = out / f"embedder.{name}"
        owned.write_bytes(path, content)
        difference = export.largest_difference(
            embed, _opened(name, path, saved, settings), saved.image_shape
        )
        line = f"{path}: {len(content) / 1e6:.1f} MB, largest difference {difference:.1e}"
        say(make_console(), line)
        if not difference <= TOLERANCE:
            owned.remove(path)
            raise InputError(
                f"{path}: expected a difference up to {TOLERANCE:g}, found {difference:g}: removed."
            )
        sha256 = hashlib.sha256(content).hexdigest()
        record["files"][path.name] = {"sha256": sha256, "largest_difference": difference}
    owned.write_text(out / exported.NAME, exported.seal(record))


def _content(name: str, embed, saved) -> bytes:
    from hyperface.weights import export

    if name == "safetensors":
        return export.export_safetensors(saved)
    make = export.export_stablehlo if name == "stablehlo" else export.export_onnx
    return make(embed, saved.image_shape)


def _opened(name: str, path: Path, saved, settings):
    from hyperface.weights import export

    if name == "safetensors":
        return export.open_safetensors(path, saved, **settings)
    if name == "stablehlo":
        return export.open_stablehlo(path.read_bytes(), saved.image_shape, str(path))
    return export.open_onnx(path)
