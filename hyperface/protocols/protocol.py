"""Defines a protocol: one object with its files, its options and the function that scores."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from hyperface.errors import InputError
from hyperface.metrics.cosine import Place
from hyperface.metrics.threshold import Rule
from hyperface.protocols.features import NamedFeatures
from hyperface.protocols.groups import Grouping
from hyperface.protocols.pair_rules import PRESETS, PairRules
from hyperface.protocols.result import Result
from hyperface.protocols.template_rules import TemplateRule


class Distractors(NamedTuple):
    """Features of distractors, for a protocol that searches people among many strangers.

    A probe is an image whose person is searched in a gallery. The gallery has another image of this
    person, and the distractors: images of people whom no probe shows. MegaFace has a million.
    """

    features: np.ndarray
    """[distractors, dim] one feature per distractor, of any norm. The array may be memory-mapped,
    since it is read in blocks."""
    names: Sequence[str] | None = None
    """[distractors] name of each image, by which lists choose or leave out distractors. None if the
    names are not known. Then all distractors are used, and a list that chooses some of them raises
    InputError."""


_FIELDS = {"preset": "rules", "group_by": "grouping"}
"""Fields of `Settings` by their option, where both have different names."""


@dataclass(frozen=True)
class Settings:
    """The options of all protocols. Each protocol uses only those that apply to it.

    Raises:
      InputError: `template_rule` is set together with `gammas` or `pool_media`.
    """

    rules: PairRules | None = None
    """Rules by which a pair of images or videos is called "same" or "different": whether the mean
    feature is subtracted, the PCA, the similarity, and how the threshold is fitted. None means the
    protocol's default in `pair_rules.PRESETS`: "plain" for CFP, and "normface" for other lists of
    pairs. The command's option is --preset."""
    pca: float | int | None = None
    """PCA for lists of image pairs: the share of variance in (0, 1), or the number of dimensions,
    to keep. This value replaces `rules.pca`. 0 means no PCA; with None, `rules.pca` is used."""
    bootstrap: int | None = None
    """Number of bootstrap resamples of people, from which confidence intervals are computed; 0
    computes none. None means the protocol's default, which is 0 for pair lists."""
    folds: int | None = None
    """Number of folds (groups of pairs) into which a user's list of pairs is split if the list does
    not name the fold of each pair. None means 10, or fewer if the list has fewer than 10 pairs of
    one person or fewer than 10 pairs of two people."""
    seed: int = 0
    """Seed of the protocol `folder`, which splits people into two halves at random, and chooses
    random samples of pairs."""
    rule: Rule = "blufr"
    """Rule by which the protocol `blufr` turns a false accept rate (FAR) into a threshold. With N
    scores of impostors (such as pairs of two people), the threshold of "blufr" is the k-th highest
    of them, where k is FAR x N, rounded to an integer. "strict" rounds k down, and sets the
    threshold just above the (k + 1)-th highest, so that the measured rate is never above FAR."""
    gammas: int | None = None
    """K, the number of terms in the Ring loss paper's score of two templates (sets of images of one
    person): a sum of K weighted means of the cosines of their images. None means the protocol's
    default: 8 for IJB-A and 2 for CS3. For IJB-B and IJB-C the default score is the cosine of the
    templates' mean features."""
    pool_media: bool = False
    """Whether the images of a template that belong to one medium (such as the frames of a video)
    are first averaged to one image."""
    template_rule: TemplateRule | None = None
    """Rule of insightface, one of `TEMPLATE_RULES`, that merges the images of a template into one
    feature, on IJB-B and IJB-C. It replaces `gammas` and `pool_media`. With None, `gammas` and
    `pool_media` determine how images are merged."""
    pairs: Path | None = None
    """The file that lists the pairs, for the protocol `pairs`; None means the file `pairs.csv` in
    the folder of the data set."""
    distractors: Distractors | None = None
    """Features of the distractors. The protocol `megaface` requires them, and all other protocols
    ignore them."""
    probe_list: Path | None = None
    """The file of MegaFace's list of probes (images that are searched); with None all images are
    probes."""
    distractor_list: Path | None = None
    """The file of MegaFace's list of distractors; with None all are used."""
    noises: tuple[Path, ...] = ()
    """The files of MegaFace's noise lists: images with wrong labels, which are left out."""
    place: Place = jnp.asarray
    """Function that moves features [rows, dim] to devices and returns them as a JAX array. The
    default uses JAX's default device; another function may split the rows over several devices."""
    grouping: Grouping | None = None
    """Group of each image, such as a range of age. The scores are also computed on the pairs within
    each group. None computes no such scores. The command's option is --group-by."""
    progress: Callable[[int, int], None] | None = None
    """Function that is called with (number of finished parts, number of all parts) of the
    computation; None reports nothing."""

    def __post_init__(self) -> None:
        if self.template_rule and (self.gammas is not None or self.pool_media):
            raise InputError(
                f"--template-rule {self.template_rule.name}: expected no --gammas and no "
                "--pool-media with it, since the rule fixes both."
            )

    def accepted(self, options: frozenset[str]) -> "Settings":
        """Returns a copy in which fields that a protocol does not accept have their defaults.

        Args:
          options: names of the accepted options, the field `options` of the protocol. The fields
            `place` and `progress` are always copied.
        """
        # Every protocol may report its progress and use the devices.
        kept = {"place", "progress", *(_FIELDS.get(option, option) for option in options)}
        return Settings(**{name: getattr(self, name) for name in kept})

    def files(self) -> tuple[Path, ...]:
        """Returns the paths of files that the settings were read from: that of `grouping`, or ().

        An evaluation stores a digest of these files and of the protocol's files in its results.
        """
        return () if self.grouping is None else (Path(self.grouping.file),)

    def pair_rules(self, default: str = "normface") -> PairRules:
        """Returns the rules by which a pair of images is called "same" or "different".

        They are the field `rules`. If the field `pca` of the settings is not None, its value
        replaces the PCA of these rules.

        Args:
          default: key in `pair_rules.PRESETS`, such as "plain" or "normface", of the rules that are
            used if the field `rules` is None.
        """
        rules = self.video_rules(default)
        # 0 asks for no PCA, which the rules express by None.
        return rules if self.pca is None else replace(rules, pca=self.pca or None)

    def video_rules(self, default: str = "normface") -> PairRules:
        """Returns the rules by which a pair of videos is called "same" or "different".

        They are the field `rules`; the field `pca` is not used.

        Args:
          default: key in `pair_rules.PRESETS`, such as "plain" or "normface", of the rules that are
            used if the field `rules` is None.
        """
        return self.rules or PRESETS[default]


Scorer = Callable[[str, NamedFeatures, Sequence[Path], Settings], Result]
"""Scores a protocol: (its name, the features, its files, the settings) -> result."""
FindFiles = Callable[[str, Path, Settings, Path | None], list[Path]]
"""Finds the files of a protocol: (its name, folder of protocol files, settings, folder of the data
set or None) -> paths."""


@dataclass(frozen=True)
class Protocol:
    """A published set of comparisons of images, such as LFW's 6,000 pairs, and how it is scored.

    The object names the data set, the files that list the comparisons, the accepted options, and
    the function that computes the scores. `registry.PROTOCOLS` has all protocols by name.

    Example:
      >>> from hyperface.protocols import registry
      >>> protocol = registry.find("lfw")
      >>> protocol.title, protocol.dataset, protocol.file_names
      ('LFW, 6,000 pairs', 'lfw', ('lfw/pairs.txt',))
      >>> sorted(protocol.options)
      ['bootstrap', 'group_by', 'pca', 'preset']
    """

    name: str
    """Name by which users choose the protocol, such as "lfw"."""
    title: str
    """Title in tables and reports."""
    dataset: str | None
    """Name of the prepared data set whose images are compared. With None the user has to name a
    data set."""
    scorer: Scorer
    """Function (protocol's name, features of images with their names, paths of the protocol's
    files, settings) -> the result."""
    file_names: tuple[str, ...] = ()
    """Paths of the files that list the comparisons, relative to the folder of protocol files."""
    options: frozenset[str] = frozenset()
    """Names of the evaluation's command-line options that the protocol accepts, such as "pca"."""
    more_files: Callable[[Settings], tuple[str, ...]] | None = None
    """Function that returns the paths of further files that the settings require, relative to the
    folder of protocol files. None if no setting requires a file."""
    find_files: FindFiles | None = None
    """Function (protocol's name, folder of protocol files, settings, folder of the data set or
    None) -> paths of all files, for a protocol whose files are named by options. It replaces
    `file_names` and `more_files`. With None these two name the files."""
    check: Callable[[str, Settings], None] | None = None
    """Function that takes the protocol's name and the settings, and raises InputError if the
    settings do not fit. The evaluation calls it before it computes any features. None if all
    settings fit."""
    has_distractors: bool = False
    """Whether the user has to give features of distractors by --distractors. Distractors are images
    of people whom no probe shows. They are added to the gallery in which probes are searched."""

    def files(
        self,
        folder: Path,
        settings: Settings = Settings(),
        dataset: Path | None = None,
    ) -> list[Path]:
        """Returns the files that define the comparisons of the protocol.

        Args:
          folder: the folder of protocol files.
          settings: the settings, which may name other files.
          dataset: the folder of the prepared data set, which may contain the list of pairs; None if
            there is none.

        Returns:
          The paths, in the order that `score` expects.

        Raises:
          InputError: a file is missing, or a required option does not name a file.
        """
        settings = settings.accepted(self.options)
        if self.find_files is not None:
            return self.find_files(self.name, folder, settings, dataset)
        more = self.more_files(settings) if self.more_files is not None else ()
        paths = [folder / name for name in (*self.file_names, *more)]
        missing = [path for path in paths if not path.exists()]
        if missing:
            raise InputError(
                f"{self.name}: expected the protocol's file at {missing[0]}, found none. Put it "
                "there, or name the folder of protocol files by --protocol-dir."
            )
        return paths

    def score(
        self,
        features: NamedFeatures,
        files: Sequence[Path],
        settings: Settings = Settings(),
    ) -> Result:
        """Scores the features of all images that the files name; other images are not used.

        Args:
          features: the features and names of the images, in any order.
          files: the paths that the method `files` returned.
          settings: the options; those that do not apply to the protocol are ignored.

        Raises:
          InputError: a file is damaged, an image has no feature, or the features cannot be scored.
        """
        try:
            # One command scores several protocols, which share functions but not all options.
            return self.scorer(self.name, features, files, settings.accepted(self.options))
        # InputError is a ValueError too, but its message already names the origin of the fault.
        except InputError:
            raise
        except ValueError as error:
            raise InputError(f"{self.name}: {error}.") from error


PAIR_OPTIONS = frozenset({"preset", "pca", "bootstrap", "group_by"})
"""Options that every protocol with a list of image pairs accepts."""
