"""Decides whether photos show the same person, and states how certain the decision is.

    hyperface verify one.jpg other.jpg --run runs/mine
    hyperface verify one.jpg folder/ --run runs/mine --far 0.01
    hyperface verify folder/ other-folder/ --run net.onnx --calibration calibration.json

Faces are found, aligned to the size that the network takes, and embedded. If folders are given,
every photo of one folder is compared with every photo of the other, but no photo with itself. The
similarity is the cosine of
the features. The calibration of the network, which hyperface evaluate --protocol folder writes,
gives the threshold of the false accept rate and the probability. Without a calibration the
similarity alone is printed.

same: at most a share FAR of pairs of different people are so similar. different: at most a share
FAR of pairs of one person are so dissimilar. not sure: the similarity is between both thresholds.

`verification.html` shows the aligned faces with the lengths of their features, which indicate the
quality of the photo, and a table of the pairs. `verification.png` contains the faces alone, and
`verification.json` all numbers.

From Python:

    from hyperface.runs import verify
    found = verify.verify("one.jpg", "other.jpg", run="runs/mine", far=0.001)
    print(found.best.decision, found.best.probability)
"""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from hyperface import owned
from hyperface.errors import InputError, expect
from hyperface.runs import next_steps, program

log = logging.getLogger("hyperface")

if TYPE_CHECKING:  # jax and NumPy are loaded after the options are parsed.
    from hyperface.data.detection import Detector
    from hyperface.evaluate.calibration_file import StoredCalibration
    from hyperface.metrics.operating_points import OperatingPoint
    from hyperface.runs.comparison import Verified
    from hyperface.runs.embedding import Network
    from hyperface.runs.photos import Face

PAGE, PICTURE, RECORD = "verification.html", "verification.png", "verification.json"


@dataclasses.dataclass(frozen=True)
class Verify:
    """Options of `hyperface verify`."""

    first: tyro.conf.Positional[Path]
    """A photo, or a folder of photos."""
    second: tyro.conf.Positional[Path]
    """Another photo or folder."""
    run: Path | None = None
    """Folder of a run or of an export, or a file of weights; the newest run in runs/ by default."""
    far: float = 0.001
    """False accept rate: the share of pairs of different people that may be accepted as one
    person. It selects the thresholds of the calibration."""
    calibration: Path | None = None
    """The calibration.json of this network: thresholds, above and below which a pair is "same" or
    "different". By default the one in the run's folder or export. If there is none, only the
    similarities are reported."""
    prior: float = 0.5
    """Your estimate of the share of pairs that show one person, among all that you compare. The
    probability of a pair depends on it."""
    faces: Literal["one", "largest", "central"] = "one"
    """Which face is used if a photo has several. one: such a photo is left out. largest: the
    largest face, with a preference for the centre. central: the face nearest to the centre."""
    aligned: bool = False
    """The images are aligned faces of the network's image size already, and are used whole. Without
    it, faces are found in the photos and aligned."""
    checkpoint: int | None = None
    """Step of the run's checkpoint; the newest by default."""
    out: Path = Path("verification")
    """Folder for the page, the picture and the JSON file."""


def main(args: Sequence[str]) -> None:
    """Parses the options, then loads JAX and compares the photos."""
    options = program.parse(Verify, args, prog="hyperface verify", description=__doc__ or "")
    program.quiet_libraries()
    verify(
        options.first,
        options.second,
        run=options.run,
        far=options.far,
        calibration=options.calibration,
        prior=options.prior,
        faces=options.faces,
        aligned=options.aligned,
        checkpoint=options.checkpoint,
        out=options.out,
    )


def verify(
    first: Path | str,
    second: Path | str,
    *,
    run: Path | str | None = None,
    far: float = 0.001,
    calibration: Path | str | None = None,
    prior: float = 0.5,
    faces: Literal["one", "largest", "central"] = "one",
    aligned: bool = False,
    checkpoint: int | None = None,
    out: Path | str | None = None,
    detector: "Detector | None" = None,
) -> "Verified":
    """Compares two photos, or the photos of two folders, and logs similarities and decisions.

    Args:
      first: a photo, or a folder of photos.
      second: another photo or folder. The same folder twice compares all pairs within it. A photo
        that is on both sides is not compared with itself.
      run: folder of a run or of an export, or a weight file; by default the newest run in runs/.
      far: false accept rate in (0, 1]: the share of pairs of different people that may be accepted
        as one person. It selects the thresholds of the calibration.
      calibration: file of the network's calibration; by default that of the run or export. Without
        one there are similarities but no decisions.
      prior: the user's estimate of the share of pairs that show one person, in (0, 1). The
        probability of a pair depends on it.
      faces: which face is used if a photo has several: "largest", "central" (nearest to the
        centre), or "one", which leaves such a photo out.
      aligned: whether the images are aligned faces of the network's image size already. They are
        then used whole, and the detector is not called.
      checkpoint: step of the run's checkpoint; by default the newest.
      out: folder for the page, the picture and the JSON file; None writes nothing.
      detector: finds the faces. It is a function from one photo, [height, width, 3] uint8, to boxes
        [n, 4], scores [n] and landmarks [n, 5, 2] of its n faces. By default it is MTCNN.

    Returns:
      The pairs with their similarities and decisions, the most similar one first.

    Raises:
      InputError: there is no such network, one side has no usable face, there is no pair or there
        are more than 25 million, the calibration is that of another network or has no thresholds
        for `far`, or `far` or `prior` is out of range.

    Example:
      >>> verify("one.jpg", "other.jpg", run="runs/mine").best.decision  # doctest: +SKIP
      'same'
    """
    from hyperface.runs.comparison import Side, compare
    from hyperface.runs.embed import faces_and_features, log_not_used

    expect(0 < far <= 1, "--far", "a rate in (0, 1]", far)
    expect(0 < prior < 1, "--prior", "a share in (0, 1)", prior)
    # Checked before the photos are read, not when the results are written.
    if out is not None:
        owned.check_free(*(Path(out) / name for name in (PAGE, PICTURE, RECORD)))
    folder = _newest_run() if run is None else Path(run)
    given = None if calibration is None else Path(calibration)
    network, stored, uncalibrated = _calibrated(folder, given, checkpoint)
    # Before the photos are embedded, because the calibration may have no rate that low.
    point = None if stored is None else stored.point(far)

    def side(path: Path) -> Side:
        found = faces_and_features(path, network, faces=faces, aligned=aligned, detector=detector)
        folder = path if path.is_dir() else path.parent
        return Side(*found, [(folder / face.name).resolve() for face in found[0]])

    one = side(Path(first))
    # The same folder twice asks for all pairs within it, and is embedded once.
    is_within = Path(first).resolve() == Path(second).resolve()
    found, shown = compare(one, one if is_within else side(Path(second)), stored, point, prior)
    found = found._replace(uncalibrated=uncalibrated)
    log_not_used(found.not_used)
    _log(found, stored, folder, prior)
    if out is not None:
        summary = found.uncalibrated
        if found.point is not None and stored is not None:
            summary = _about(found.point, stored)
        _write(Path(out), found, shown, _record(found, network, folder, prior), summary)
        log.info(f"Look at {Path(out) / PAGE}; all numbers are in {Path(out) / RECORD}")
    return found


def _newest_run() -> Path:
    """Returns the folder of the run in runs/ that saved a checkpoint last, and logs it.

    Raises:
      InputError: there is no run in runs/.
    """

    runs = [path.parent for path in Path("runs").glob("*/checkpoints") if path.is_dir()]
    if not runs:
        raise InputError(
            "--run: expected the folder of a run, an export or a file of weights, found none, and "
            "no run in runs/. hyperface train makes one."
        )
    # The time of this folder changes with each checkpoint, that of the run's folder does not.
    newest = max(runs, key=lambda run: (run / "checkpoints").stat().st_mtime)
    log.info(f"--run {newest}, the newest")
    return newest


def _calibrated(
    run: Path, given: Path | None, checkpoint: int | None
) -> "tuple[Network, StoredCalibration | None, str]":
    """Opens a network, and finds its calibration.

    Args:
      run: folder of a run or of an export, or a weight file.
      given: the calibration file that the user names; None takes that of the run or export.
      checkpoint: step of the run's checkpoint; None takes the newest.

    Returns:
      The network, its calibration or None, and the reason why there is none ("" if there is one).

    Raises:
      InputError: there is no network, or the named calibration is that of another network.
    """
    from hyperface.evaluate.calibration_file import read_calibration
    from hyperface.runs.embedding import open_network

    path = given or next_steps.usual_calibration(run)
    stored = read_calibration(path) if given is not None or path.is_file() else None
    # Thresholds hold only for features that are merged as those of the calibration were. A run and
    # a weight file can merge in any way. An export has a fixed way, which is compared below.
    is_run = (run / "checkpoints").is_dir() or run.is_file()
    merge: Any = stored.mirror if stored is not None and is_run else None
    network = open_network(run, checkpoint, merge)
    if stored is not None and (stored.model, stored.mirror) == (network.digest, network.mirror):
        return network, stored, ""
    if given is not None:
        raise InputError(
            f"--calibration: expected the calibration of {run}, found that of another network or "
            f"checkpoint in {given}. {next_steps.to_calibrate(run)}"
        )
    # An export contains its calibration. A calibration file beside it goes before that one.
    if network.calibration is not None:
        return network, network.calibration, ""
    why = "is not calibrated" if stored is None else f"has changed since {path} was written"
    return network, None, f"{run} {why}, so that the similarity alone is known"


def _log(
    found: "Verified",
    stored: "StoredCalibration | None",
    run: Path,
    prior: float,
) -> None:
    """Logs the first `SHOWN` pairs, the number of pairs per decision, and the thresholds.

    Without a calibration it logs how to calibrate the network instead of the last two.

    Args:
      found: the result.
      stored: the calibration; None without one.
      run: the network's folder or file, for the advice.
      prior: the share of same pairs that the probabilities assume.
    """
    from hyperface.runs.comparison import SHOWN

    for pair in found.pairs[:SHOWN]:
        shown = f"{pair.first}  {pair.second}  similarity {pair.similarity:.4f}"
        if pair.probability is not None:
            shown += f"  probability {pair.probability:.4f}  {pair.decision}"
        log.info(f"{shown}  norms {pair.norms[0]:.2f} and {pair.norms[1]:.2f}")
    if found.compared > SHOWN:
        log.info(f"and {found.compared - SHOWN:,} more pairs")
    if found.point is None or stored is None:
        log.info(f"{found.uncalibrated}. {next_steps.to_calibrate(run)}")
        return
    if found.compared > 1:
        counts = ", ".join(f"{count:,} {name}" for name, count in found.decisions.items())
        log.info(f"{found.compared:,} pairs: {counts}")
    log.info(f"{_about(found.point, stored)} The probability is at a prior of {prior:g}.")


def _about(point: "OperatingPoint", stored: "StoredCalibration") -> str:
    """Describes in words the thresholds and the rates that they had on other people."""
    text = (
        f"FAR {100 * point.far:g} %: same from {point.threshold:.4f}, different up to "
        f"{point.reject_threshold:.4f}"
    )
    if point.measured_far is not None and point.measured_tar is not None:
        text += f"; on other people FAR {100 * point.measured_far:.2f} %"
        if point.measured_far_low is not None and point.measured_far_high is not None:
            low, high = 100 * point.measured_far_low, 100 * point.measured_far_high
            text += f" ({low:.2f} to {high:.2f} % in 95 % of resamples of the people)"
        text += f", TAR {100 * point.measured_tar:.2f} %"
    if not point.supported:
        text += (
            f". WARNING: the calibration has {stored.num_different:,} different pairs, too few to "
            "show this rate; the threshold is above all of them"
        )
    return f"{text}."


def _record(found: "Verified", network: "Network", run: Path, prior: float) -> dict[str, Any]:
    """Returns the content of `verification.json`.

    The keys are "run", "model" (digest of the weights), "steps" (the procedure), "far" (the
    thresholds), "prior", "uncalibrated", "compared", "decisions", "pairs" and "left out".
    """
    return {
        "run": str(run),
        "model": network.digest,
        "steps": list(network.steps),
        "far": found.point and found.point._asdict(),
        "prior": prior,
        "uncalibrated": found.uncalibrated,
        "compared": found.compared,
        "decisions": found.decisions,
        "pairs": [pair._asdict() for pair in found.pairs],
        "left out": [photo._asdict() for photo in found.not_used],
    }


def _write(
    folder: Path,
    found: "Verified",
    shown: "list[tuple[Face, Face]]",
    record: dict[str, Any],
    summary: str,
) -> None:
    """Writes the page, the picture and the JSON file.

    Args:
      folder: the folder of the files.
      found: the result.
      shown: the two faces of each of the first pairs.
      record: the content of the JSON file.
      summary: a sentence about the thresholds, or about the missing calibration.
    """
    from hyperface.report.verification import ShownPair, write_verification

    pairs = [
        ShownPair(
            images=(one.pixels, other.pixels),
            names=(pair.first, pair.second),
            norms=pair.norms,
            similarity=pair.similarity,
            decision=pair.decision,
        )
        # Not strict, because `found` has more pairs than are shown.
        for (one, other), pair in zip(shown, found.pairs, strict=False)
    ]
    with owned.writing(folder, "The result is above; choose another folder by --out."):
        write_verification(folder, pairs, record, summary=summary, command=program.command_line())
