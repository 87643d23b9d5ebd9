"""Exports an embedder as files for other programs, checks each file, and writes a model card.

    hyperface export runs/orl-normface --out exported
    hyperface export RUN --out FOLDER --format safetensors,stablehlo,onnx --mirror sum
    hyperface export net.onnx --out FOLDER --license mit      released weights

An embedder is a function from images to features. The formats are:

- `embedder.safetensors`: the weights of the backbone, without the steps that follow it.
- `embedder.stablehlo`: a program that JAX runs without this library.
- `embedder.onnx`: an ONNX model. Writing it needs jax2onnx and onnxruntime.

Each file is opened again, and must give the same features as the run. `README.md` is the card that
model hubs show: data, loss, results of hyperface evaluate, licence and input.
"""

import dataclasses
import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from hyperface import owned
from hyperface.errors import InputError, unknown_name
from hyperface.report.card import Card
from hyperface.runs import program
from hyperface.runs.evaluate_options import default_out

if TYPE_CHECKING:  # jax is loaded after the options are parsed.
    from hyperface.weights.export import Embed
    from hyperface.weights.runs import SavedBackbone

log = logging.getLogger("hyperface")

CARD = "README.md"
FORMATS = ("safetensors", "stablehlo", "onnx")

TOLERANCE = 1e-4
"""Largest allowed difference between features, relative to the largest feature value."""


@dataclasses.dataclass(frozen=True)
class Export:
    """Options of `hyperface export`."""

    source: tyro.conf.Positional[Path]
    """Folder of a run of hyperface train, or a weight file of a known network."""
    out: Path
    """Folder for the exported files."""
    format: str = "safetensors,stablehlo"
    """Formats to write, separated by commas: safetensors, stablehlo and onnx."""
    step: int | None = None
    """Step of the run's checkpoint; by default the newest one."""
    mirror: Literal["none", "sum", "max", "concat"] | None = None
    """How the features of an image and of its mirror image are merged: none (no mirror image), sum,
    max (of each component) or concat. By default as in the run's experiment, and none for a weight
    file."""
    normalize: bool = True
    """Scale the features to unit length, after the merge with those of the mirror image."""
    license: str | None = None
    """Licence of the weights for the model card (README.md), by the name that model hubs use, such
    as mit. By default the card names none."""
    evaluation: Path | None = None
    """File evaluation.json of hyperface evaluate, whose scores the model card (README.md) shows. It
    is an error if other weights were evaluated. By default the file in the usual folder of results,
    if it is that of these weights; otherwise the card has no scores."""
    calibration: Path | None = None
    """File calibration.json of hyperface evaluate --protocol folder. Its thresholds become part of
    the export, and hyperface verify uses them. It is an error if it is that of other weights or of
    another --mirror. By default the file in the usual folder of results, if it is that of these
    weights and of this --mirror; otherwise the export has no calibration."""


def main(args: Sequence[str]) -> None:
    """Parses the options, then loads JAX and exports the network."""
    options = program.parse(Export, args, prog="hyperface export", description=__doc__ or "")
    formats = tuple(name.strip() for name in options.format.split(","))
    for name in formats:
        if name not in FORMATS:
            raise unknown_name("format", name, FORMATS)
    if options.out.exists() and not options.out.is_dir():
        raise InputError(f"--out: expected a folder, found the file {options.out}.")
    # Before JAX is loaded and the weights are read, so that a taken name is reported at once.
    owned.check_free(*(options.out / f"embedder.{name}" for name in (*formats, "json")))
    owned.check_free(options.out / CARD)
    from hyperface.weights import export, read_backbone

    program.quiet_libraries()
    saved = read_backbone(options.source, options.step)
    # A weight file does not tell how its network was evaluated.
    usual = saved.experiment["evaluation"]["mirror"] if saved.experiment else "none"
    settings = {"mirror": options.mirror or usual, "normalize": options.normalize}
    protocols = _protocols(options, saved)
    calibration = _calibration(options, saved, settings["mirror"])
    with owned.writing(options.out):
        record = _write(options.out, saved, settings, formats, calibration)
        card = Card(
            record=record,
            feature_dim=export.feature_dim(saved),
            license=options.license,
            init_from=saved.init_from,
            experiment=saved.experiment,
            protocols=protocols,
        )
        owned.write_text(options.out / CARD, card.text())


def _protocols(options: Export, saved: "SavedBackbone") -> dict:
    """Returns protocol -> its results by hyperface evaluate for the exported weights, or {}.

    Raises:
      InputError: the file that the user gave has the results of other weights.
    """
    from hyperface.files import read_json

    path = options.evaluation or default_out(options.source) / "evaluation.json"
    if options.evaluation is None and not path.is_file():
        return {}
    record = read_json(path)
    try:
        protocols, scored_networks = record["protocols"], record["settings"].get("networks")
        for scored in protocols.values():
            # The card reads these keys later, where a missing one would be a crash.
            if not {"figures", "spreads", "steps"} <= scored.keys():
                raise KeyError("figures")
    except (KeyError, TypeError, AttributeError):
        raise InputError(f"{path}: expected results of hyperface evaluate, found others.") from None
    # By the weights themselves: a step has several names (its number, "best", the newest), and a
    # run that is trained on keeps its old checkpoints.
    if scored_networks == [saved.digest()]:
        return protocols
    # The results in the usual folder may be for another step, or older than the run's last steps.
    if options.evaluation is None:
        return {}
    at = "" if saved.step is None else f" at step {saved.step}"
    raise InputError(
        f"--evaluation: expected results of {options.source}{at} as it is, found those of other "
        f"weights ({record.get('source')}) in {path}. Evaluate it again."
    )


def _calibration(options: Export, saved: "SavedBackbone", mirror: str) -> dict | None:
    """Returns the calibration of the exported network, or None if there is none.

    Raises:
      InputError: the file that the user gave is the calibration of another network.
    """
    from hyperface.evaluate.calibration_file import NAME, read_calibration

    path = options.calibration or default_out(options.source) / NAME
    if options.calibration is None and not path.is_file():
        return None
    found = read_calibration(path)
    if (found.model, found.mirror) == (saved.digest(), mirror):
        return found.to_dict()
    # The calibration in the usual folder may be for another step or merge, or be older than the
    # run's last steps.
    if options.calibration is None:
        return None
    raise InputError(
        f"--calibration: expected that of {options.source} with --mirror {mirror}, found that of "
        f"another network or with --mirror {found.mirror} in {path}. Evaluate it again by "
        "--protocol folder."
    )


def _write(
    out: Path,
    saved: "SavedBackbone",
    settings: dict,
    formats: Sequence[str],
    calibration: dict | None,
) -> dict:
    """Writes and checks each file, and writes the record of the export.

    Args:
      out: folder of the export.
      saved: the backbone to export.
      settings: "mirror" and "normalize", as in `Export`.
      formats: names of the formats, which are in `FORMATS`.
      calibration: the network's calibration as a dictionary; None if it has none.

    Returns:
      The record, which is the content of `embedder.json`.

    Raises:
      InputError: a file gives other features than the run. The file was removed.
    """
    from hyperface.weights import export, exported

    embed = export.make_embedder(saved, **settings)
    # All formats are built before the first file is written, so that a format that cannot be built
    # leaves an earlier export as it was.
    contents = {name: _content(name, embed, saved) for name in formats}
    # The record of an earlier export has the digests of the old files. Opening the new files would
    # compare them with it.
    owned.remove(out / exported.NAME)
    record = {
        "model": saved.model,
        "step": saved.step,
        "input": ["batch", *saved.image_shape],
        "pixels": "(pixel - 127.5) / 128",
        "crop": saved.experiment and saved.experiment["data"].get("crop"),
        "shrink": saved.experiment["data"].get("shrink", 1) if saved.experiment else 1,
        **settings,
        "calibration": calibration,
        "files": {},
    }
    for name, content in contents.items():
        path = out / f"embedder.{name}"
        owned.write_bytes(path, content)
        difference = export.largest_difference(
            embed, _opened(name, path, saved, settings), saved.image_shape
        )
        line = f"{path}: {len(content) / 1e6:.1f} MB, largest difference {difference:.1e}"
        log.info(line)
        # Not `>`, because a difference of NaN must fail too.
        if not difference <= TOLERANCE:
            owned.remove(path)
            raise InputError(
                f"{path}: expected a difference up to {TOLERANCE:g}, found {difference:g}: removed."
            )
        sha256 = hashlib.sha256(content).hexdigest()
        record["files"][path.name] = {"sha256": sha256, "largest_difference": difference}
    # The record is written last: if it exists, all files in it were checked.
    owned.write_text(out / exported.NAME, exported.seal(record))
    return record


def _content(name: str, embed: "Embed", saved: "SavedBackbone") -> bytes:
    """Returns the content of the exported file in a format."""
    from hyperface.weights import export

    if name == "safetensors":
        return export.export_safetensors(saved)
    make = export.export_stablehlo if name == "stablehlo" else export.export_onnx
    return make(embed, saved.image_shape)


def _opened(name: str, path: Path, saved: "SavedBackbone", settings: dict) -> "Embed":
    """Opens an exported file as another program would, and returns its function of images.

    Args:
      name: the format.
      path: the file.
      saved: the exported backbone, whose structure a safetensors file does not contain.
      settings: "mirror" and "normalize", which a safetensors file does not contain either.
    """
    from hyperface.weights import export

    if name == "safetensors":
        return export.open_safetensors(path, saved, **settings)
    if name == "stablehlo":
        return export.open_stablehlo(path.read_bytes(), saved.image_shape, str(path))
    return export.open_onnx(path)
