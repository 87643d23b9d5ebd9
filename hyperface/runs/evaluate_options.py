"""The options of `hyperface evaluate`, and their record in `evaluation.json`."""

import dataclasses
from pathlib import Path
from typing import Literal

import tyro


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Options of `hyperface evaluate`, which measures how well features tell people apart.

    Example:
      >>> Evaluate(Path("features.npz"), protocol="lfw", preset="plain").split
      'test'
    """

    source: tyro.conf.Positional[Path]
    """Folder of a run or of an export, a file of weights (.onnx, .safetensors, .caffemodel, .pth),
    "pixels", or a features file (.npz, or .npy with names in .txt)."""
    protocol: str = ""
    """Names of protocols, separated by commas, such as lfw,blufr. The description of the command
    lists all names. By default a run is scored on the test images of the data set that it was
    trained on."""
    checkpoint: tuple[int | Literal["best"], ...] = ()
    """Steps of the checkpoints to score; the newest by default. If there are several, each is
    scored, and the mean of their scores is reported with its spread. "best" is the checkpoint with
    the lowest mean training loss over the steps since the checkpoint before it."""
    mirror: Literal["none", "sum", "max", "concat"] | None = None
    """How features of image and mirror image are merged: none (no mirror image), sum, max (of each
    component) or concat. By default as in the run's experiment."""
    preset: (
        Literal["normface", "normface-released", "sphereface-released", "insightface", "plain"]
        | None
    ) = None
    """How pair lists are scored; plain by default for CFP and for a file of weights, normface else.
    normface: PCA that keeps 99.5 % of the variance, cosine, threshold of the best accuracy.
    normface-released: the same PCA, Euclidean distance, linear SVM, as in the code of NormFace.
    sphereface-released: the mean feature is subtracted, cosine, mean of the best thresholds.
    insightface: squared distances and the best of the thresholds 0, 0.01, ..., 3.99, for lists of
    images only. plain: cosine, and only the threshold is fitted. The protocols ytf (videos) and
    halves (each half of a person's images as a video) compare all frames of two videos, and fit one
    threshold to the mean and one to the maximum of these similarities. For them the preset sets
    only how the thresholds are chosen, and whether the mean feature is subtracted."""
    pca: float | None = None
    """Share of variance (below 1) or number of dimensions that PCA keeps in pair lists, instead of
    the preset's; 0 for no PCA."""
    rule: Literal["blufr", "strict"] | None = None
    """How the protocol blufr finds the threshold of a false accept rate, among N impostor scores.
    blufr (the default): it is the k-th highest score, with k = rate x N rounded, as in BLUFR's
    published code. strict: the share of accepted impostor scores never exceeds the rate."""
    gammas: int | None = None
    """K, the number of terms in Ring loss' fusion of the similarities between the images of two
    templates (sets of images of one person). By default 8 for ijba and 2 for cs3. For ijbb and ijbc
    the mean features are compared by default, without a fusion."""
    pool_media: bool = False
    """Average the features of a template's images from one medium, such as a video, before the
    template's media are merged."""
    template_rule: Literal["insightface", "insightface-norms", "insightface-unit"] | None = None
    """insightface's rule for IJB-B and IJB-C, instead of --gammas and --pool-media: the mean
    features of a template's media are summed, whatever the lengths of the means. insightface:
    images are weighted by the norms of their features and by the detector's scores, from
    ijbc/ijbc_name_5pts_score.txt. insightface-norms: by the norms alone. insightface-unit: all
    images have the same weight. To score as insightface does, also set --mirror sum."""
    bootstrap: int | None = None
    """Number of resamples of people, from which 95 % intervals are computed; 0 for no intervals. By
    default 1,000 for the protocol "folder" (all pairs of your own people), and 0 for pair lists."""
    group_by: Path | None = None
    """CSV file whose first line is name,group. The scores of pair lists and of the protocol
    "folder" are also reported for each group of images, such as an age, a pose or an origin. A name
    is that of an image, or that of a person: the part of an image's name before the first slash.
    Pairs of images from two groups are reported together."""
    resolution: tuple[float, ...] = ()
    """Factors by which the images' area is reduced before they are enlarged to their size again, to
    test low resolution (Ring loss, Exp. 6). Each factor is evaluated; by default only 1."""
    shrink: int | None = None
    """Factor by which the data set's images are made smaller per side, for a network of smaller
    images; by default as in training."""
    dataset: str | None = None
    """Prepared data set of the images, instead of the protocol's usual one."""
    split: str = "test"
    """Split of the data set."""
    pairs: Path | None = None
    """List of the protocol "pairs": a path, or a name among the protocol files; by default the data
    set's pairs.csv. It is a CSV file whose first line is first,second,same or
    first,second,same,fold, with 1 for one person, 0 for two people, and folds from 0. The images
    have the names of the data set, person/file. Example of a line: ada/1.jpg,ada/2.jpg,1. Text
    lists "a.jpg b.jpg 1" and AgeDB's own .mat are read too."""
    folds: int | None = None
    """Number of folds for a list of the protocol "pairs" that does not name each pair's fold. By
    default 10, or fewer if it has fewer than 10 pairs of one person or of two people."""
    seed: int = 0
    """Seed by which the protocol "folder" splits the people into two halves."""
    distractors: str | None = None
    """Images among which "megaface" searches: a prepared data set, or a features file. The names of
    an .npy are in a .txt beside it, if there is one."""
    probe_list: Path | None = None
    """MegaFace's list of probes with people, facescrub_features_list.json. By default "megaface"
    takes all images of the data set, and their folders as people."""
    distractor_list: Path | None = None
    """MegaFace's list of distractors to use, such as megaface_features_list.json_1000000_1; all by
    default."""
    noises: tuple[Path, ...] = ()
    """Lists of images, one name per line, that "megaface" leaves out of probes and distractors."""
    protocol_dir: Path | None = None
    """Folder of protocol files; `protocols` in the data folder by default."""
    out: Path | None = None
    """Folder for the results. By default it is `evaluation` in the folder of the source, and
    evaluation/NAME in the current folder for a source that is a file or "pixels". Without
    --protocol it is the run's folder itself."""
    data_dir: Path | None = None
    """Folder of prepared data sets; HYPERFACE_DATA_DIR, or the user's cache, by default."""
    coordinator: str | None = None
    """host:port of process 0, if several processes compute the features together. Under SLURM, Open
    MPI and Kubernetes it is found automatically."""
    processes: int | None = None
    """Number of processes that compute the features together."""
    process: int | None = None
    """Number of this process, from 0."""


MAIN_OPTIONS = (
    "source",
    "protocol",
    "checkpoint",
    "mirror",
    "preset",
    "pca",
    "bootstrap",
    "group_by",
    "resolution",
    "dataset",
    "pairs",
    "protocol_dir",
    "out",
    "data_dir",
)
"""Names of the options that --help shows; --help-all shows all."""


def recorded(options: Evaluate) -> dict[str, str]:
    """Returns name of an option -> its value as text, which `evaluation.json` records.

    Options that are None or () are left out.
    """
    return {name: str(value) for name, value in vars(options).items() if value not in (None, ())}


def default_out(source: Path) -> Path:
    """Returns the folder into which the results are written if there is no --out.

    It is "evaluation" in the source, if that is a folder. Otherwise it is evaluation/NAME in the
    current folder, where NAME is the source's name without its ending.

    Args:
      source: folder of a run or of an export, a weight file, a features file, or "pixels".
    """
    if source.is_dir():
        return source / "evaluation"
    # A weight file may lie in a shared folder, so nothing is written beside it.
    return Path("evaluation") / source.stem
