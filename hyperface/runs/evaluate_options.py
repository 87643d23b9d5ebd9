"""Options of the command that evaluates."""

import dataclasses
from pathlib import Path
from typing import Literal

import tyro

RESULTS = "evaluation.json"


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Options of the command."""

    source: tyro.conf.Positional[Path]
    """Folder of a run or of an export, a file of weights (.onnx, .safetensors, .caffemodel, .pth),
    "pixels", or a features file (.npz, or .npy with names in .txt)."""
    protocol: str = ""
    """Published protocols, separated by commas; the run's own by default."""
    step: tuple[int | Literal["best"], ...] = ()
    """Which checkpoints; the newest by default. Of several, mean and spread are reported. "best" is
    the one whose steps since the checkpoint before it had the lowest mean training loss."""
    mirror: Literal["none", "sum", "max", "concat"] | None = None
    """How features of image and mirror image are merged; the experiment's way by default."""
    steps: Literal["normface", "normface-released", "sphereface-released", "plain"] | None = None
    """Steps of pair lists; plain by default for CFP and for a file of weights, normface for others.
    normface: PCA that keeps 99.5 % of the variance, cosine, best accuracy. normface-released: the
    same, Euclidean, linear SVM. sphereface-released: mean subtracted, cosine, mean of the best
    thresholds. plain: nothing fitted but the threshold. Of ytf and halves: the threshold of mean
    and maximum, and whether a mean is subtracted; there is no PCA."""
    pca: float | None = None
    """Share of variance (below 1) or dimensions that PCA keeps in pair lists, whatever their steps;
    0 for no PCA."""
    rule: Literal["blufr", "strict"] | None = None
    """How BLUFR's false accept rates become thresholds: as its code has it, the default, or never
    above."""
    gammas: int | None = None
    """K of Ring loss' fusion of templates: 8 for ijba and 2 for cs3 by default, mean features for
    ijbb, ijbc."""
    pool_media: bool = False
    """Average a template's images of one medium, such as a video, first."""
    bootstrap: int = 0
    """Resamples of people, for 95 % intervals of a pair list's rates; a thousand are usual."""
    resolution: tuple[float, ...] = ()
    """Area factors by which images are made smaller, and up again (Ring loss, Exp. 6)."""
    dataset: str | None = None
    """Prepared data set of the images, instead of the protocol's usual one."""
    split: str = "test"
    """Split of it."""
    pairs: Path | None = None
    """The list of the protocol "pairs", AgeDB's own .mat too: a file, here or among the protocol
    files; by default pairs.csv of the data set."""
    distractors: str | None = None
    """Of the protocol "megaface": a prepared data set, or a features file; of an .npy the names are
    in a .txt beside it, if any."""
    probe_list: Path | None = None
    """The devkit's list of probes, facescrub_features_list.json, with people; "megaface" takes all
    images of the data set by default, and their folders for people."""
    distractor_list: Path | None = None
    """The devkit's list of distractors to take, such as megaface_features_list.json_1000000_1; all
    by default."""
    noises: tuple[Path, ...] = ()
    """Lists of images, one name a line, that "megaface" leaves out of probes and distractors."""
    protocol_dir: Path | None = None
    """Folder of protocol files; `protocols` in the data folder by default."""
    out: Path | None = None
    """Folder for the results; `evaluation` in the run's folder, or here, by default. Without
    --protocol it is the run's folder itself."""
    data_dir: Path | None = None
    """Folder of prepared data sets; HYPERFACE_DATA_DIR, or the user's cache, by default."""
    coordinator: str | None = None
    """host:port of process 0, where several processes embed together, as with hyperface train."""
    processes: int | None = None
    """How many there are."""
    process: int | None = None
    """Which one this is, from 0."""


def recorded(options: Evaluate) -> dict[str, str]:
    """The options that are set, as `evaluation.json` keeps them."""
    return {name: str(value) for name, value in vars(options).items() if value not in (None, ())}
