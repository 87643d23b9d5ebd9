"""The published protocols by name: from named features and protocol files to figures."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from hyperface.errors import InputError
from hyperface.protocols import janus, lists, trials, videos
from hyperface.protocols.features import NamedFeatures
from hyperface.protocols.lists import score_pairs
from hyperface.protocols.megaface import score_megaface
from hyperface.protocols.result import Scored
from hyperface.protocols.sets import score_search, score_templates
from hyperface.protocols.settings import Settings

__all__ = [
    "SUITE",
    "Entry",
    "Settings",
    "files",
    "score",
    "score_megaface",
    "score_pairs",
    "score_search",
    "score_templates",
]


class Entry(NamedTuple):
    """A protocol that is known by name."""

    title: str
    dataset: str
    """Name of the prepared data set whose images it compares, unless the user says otherwise."""
    files: tuple[str, ...]
    """Below the folder of protocol files."""
    score: Callable[[str, NamedFeatures, Sequence[Path], Settings], Scored]


def files(name: str, folder: Path) -> list[Path]:
    """A protocol's files; InputError where one is missing."""
    paths = [folder / file for file in SUITE[name].files]
    missing = [path for path in paths if not path.exists()]
    if missing:
        raise InputError(
            f"{name}: expected the protocol's file at {missing[0]}, found none. Put it there, or "
            "name the folder of protocol files by --protocol-dir."
        )
    return paths


def score(
    name: str,
    named: NamedFeatures,
    folder: Path,
    settings: Settings = Settings(),  # noqa: B008  Frozen.
) -> Scored:
    """Scores features by a protocol of `SUITE`.

    Args:
      name: of the protocol.
      named: features of at least the images that it compares.
      folder: holds the protocol's files.
      settings: choices within it.

    Raises:
      InputError: a file is missing or damaged, an image has no feature, or the features cannot be
        scored so.
    """
    paths = files(name, folder)
    try:
        return SUITE[name].score(name, named, paths, settings)
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{name}: {error}.") from error


SUITE: Mapping[str, Entry] = {
    "lfw": Entry("LFW, 6,000 pairs", "lfw", ("lfw/pairs.txt",), lists.lfw),
    "lfw-view1": Entry(
        "LFW, View 1", "lfw", ("lfw/pairsDevTrain.txt", "lfw/pairsDevTest.txt"), lists.view1
    ),
    "blufr": Entry("BLUFR on LFW", "lfw", ("blufr_lfw_config.mat",), trials.score_blufr),
    "cfp-ff": Entry("CFP, frontal and frontal", "cfp", ("cfp_protocol.zip",), lists.cfp),
    "cfp-fp": Entry("CFP, frontal and profile", "cfp", ("cfp_protocol.zip",), lists.cfp),
    "ytf": Entry("YTF, 5,000 video pairs", "ytf", ("ytf/splits.txt",), videos.ytf),
    "halves": Entry("Halves of each person's images as two videos", "lfw", (), videos.halves),
    "agedb": Entry("AgeDB-30", "agedb", ("agedb/agedb_30.txt",), lists.listed),
    "calfw": Entry("CALFW", "calfw", ("calfw/pairs_CALFW.txt",), lists.listed),
    "cplfw": Entry("CPLFW", "cplfw", ("cplfw/pairs_CPLFW.txt",), lists.listed),
    "ijba": Entry("IJB-A, 1:1", "ijba", ("IJB-A_11_sets",), janus.ijba),
    "ijba-search": Entry("IJB-A, 1:N", "ijba", ("IJB-A_1N_sets",), janus.ijba_search),
    "cs3": Entry(
        "Janus CS3, 1:1",
        "cs3",
        ("cs3/verify_metadata.csv", "cs3/verify_comparisons.csv"),
        janus.cs3,
    ),
    "cs3-search": Entry(
        "Janus CS3, 1:N",
        "cs3",
        ("cs3/search_gallery.csv", "cs3/search_probe.csv"),
        janus.cs3_search,
    ),
    "ijbb": Entry(
        "IJB-B, 1:1",
        "ijbb",
        ("ijbb/ijbb_face_tid_mid.txt", "ijbb/ijbb_template_pair_label.txt"),
        janus.ijbc,
    ),
    "ijbb-search": Entry(
        "IJB-B, 1:N",
        "ijbb",
        (
            "ijbb/ijbb_face_tid_mid.txt",
            "ijbb/ijbb_1N_gallery_S1.csv",
            "ijbb/ijbb_1N_gallery_S2.csv",
            "ijbb/ijbb_1N_probe_mixed.csv",
        ),
        janus.ijbc_search,
    ),
    "ijbc": Entry(
        "IJB-C, 1:1",
        "ijbc",
        ("ijbc/ijbc_face_tid_mid.txt", "ijbc/ijbc_template_pair_label.txt"),
        janus.ijbc,
    ),
    "ijbc-search": Entry(
        "IJB-C, 1:N",
        "ijbc",
        (
            "ijbc/ijbc_face_tid_mid.txt",
            "ijbc/ijbc_1N_gallery_G1.csv",
            "ijbc/ijbc_1N_gallery_G2.csv",
            "ijbc/ijbc_1N_probe_mixed.csv",
        ),
        janus.ijbc_search,
    ),
}
"""By name. `score_pairs` takes any list of pairs, `score_megaface` two sets of images."""
