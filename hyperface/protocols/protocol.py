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
    """Features of distractors: images of people whom no probe shows, added to the search."""

    features: np.ndarray
    """[distractors, dim], which may be mapped from a file."""
    names: Sequence[str] | None = None
    """[distractors] names of the images; None if they have no names."""


_FIELDS = {"preset": "rules", "group_by": "grouping"}
"""Fields of `Settings` by their option, where both have different names."""


@dataclass(frozen=True)
class Settings:
    """The options of all protocols; each protocol uses only those that its `options` names.

    Raises:
      InputError: `template_rule` is set together with `gammas` or `pool_media`.
    """

    rules: PairRules | None = None
    """Rules of pair lists and videos; None takes the protocol's default. The command's option is
    --preset."""
    pca: float | int | None = None
    """Share of the variance in (0, 1), or number of dimensions, that PCA keeps on pair lists. It
    replaces the `pca` of the rules; 0 means no PCA, and None keeps the `pca` of the rules."""
    bootstrap: int | None = None
    """Number of bootstrap resamples of people, from which intervals are computed; 0 computes no
    intervals. None takes the protocol's default, which is 0 for pair lists."""
    folds: int | None = None
    """Number of folds of a user's list that names no folds. None takes 10, or fewer if there are
    fewer same or different pairs."""
    seed: int = 0
    """Seed of the random halves of people and of random samples of pairs."""
    rule: Rule = "blufr"
    """Rule by which BLUFR turns a false accept rate into a threshold: see `impostor_threshold`."""
    gammas: int | None = None
    """K, the number of terms in the fusion of `template_scores`; None takes the protocol's
    default."""
    pool_media: bool = False
    """Whether the images of a template that belong to one medium, such as a video, count as one
    image."""
    template_rule: TemplateRule | None = None
    """Another project's rule for templates, in place of `gammas` and `pool_media`."""
    pairs: Path | None = None
    """The file that lists the pairs, for the protocol `pairs`."""
    distractors: Distractors | None = None
    """Features of the distractors, for a protocol that searches among them."""
    probe_list: Path | None = None
    """The file of MegaFace's list of probes; None takes all images."""
    distractor_list: Path | None = None
    """The file of MegaFace's list of distractors; None takes all of them."""
    noises: tuple[Path, ...] = ()
    """The files of MegaFace's lists of images to leave out."""
    place: Place = jnp.asarray
    """Function that puts rows of features on one device, or splits them over several devices."""
    grouping: Grouping | None = None
    """Groups of images for which the scores are computed separately as well. The command's option
    is --group-by."""
    progress: Callable[[int, int], None] | None = None
    """Function that is called with (number of finished parts, number of all parts)."""

    def __post_init__(self) -> None:
        if self.template_rule and (self.gammas is not None or self.pool_media):
            raise InputError(
                f"--template-rule {self.template_rule.name}: expected no --gammas and no "
                "--pool-media with it, since the rule fixes both."
            )

    def accepted(self, options: frozenset[str]) -> "Settings":
        """Returns the settings with the defaults in place of those that a protocol does not accept.

        Args:
          options: the protocol's `options`.
        """
        # Every protocol may report its progress and use the devices.
        kept = {"place", "progress", *(_FIELDS.get(option, option) for option in options)}
        return Settings(**{name: getattr(self, name) for name in kept})

    def files(self) -> tuple[Path, ...]:
        """Returns the files that the settings were read from; the record has their digests."""
        return () if self.grouping is None else (Path(self.grouping.file),)

    def pair_rules(self, default: str = "normface") -> PairRules:
        """Returns the rules for pair lists: `video_rules`, with `pca` if that is not None."""
        rules = self.video_rules(default)
        # 0 asks for no PCA, which the rules express by None.
        return rules if self.pca is None else replace(rules, pca=self.pca or None)

    def video_rules(self, default: str = "normface") -> PairRules:
        """Returns `rules`, or the preset named `default` if they are None. `pca` is not used."""
        return self.rules or PRESETS[default]


Scorer = Callable[[str, NamedFeatures, Sequence[Path], Settings], Result]
"""Scores a protocol: (its name, the features, its files, the settings) -> result."""
FindFiles = Callable[[str, Path, Settings, Path | None], list[Path]]
"""Finds the files of a protocol: (its name, folder of protocol files, settings, folder of the data
set or None) -> paths."""


@dataclass(frozen=True)
class Protocol:
    """A published way to compare images and to score the comparisons.

    Example:
      >>> from hyperface.protocols import registry
      >>> protocol = registry.find("lfw")
      >>> protocol.title, protocol.dataset, protocol.file_names
      ('LFW, 6,000 pairs', 'lfw', ('lfw/pairs.txt',))
      >>> sorted(protocol.options)
      ['bootstrap', 'group_by', 'pca', 'preset']
    """

    name: str
    """Name by which users choose the protocol."""
    title: str
    """Title in tables and reports."""
    dataset: str | None
    """Name of the prepared data set whose images it compares; None if the user has to name one."""
    scorer: Scorer
    """Function that scores features by the protocol."""
    file_names: tuple[str, ...] = ()
    """Paths of its files, relative to the folder of protocol files."""
    options: frozenset[str] = frozenset()
    """Names of the evaluation's command-line options that the protocol accepts."""
    more_files: Callable[[Settings], tuple[str, ...]] | None = None
    """Function that returns the paths of further files that the settings require, relative to the
    folder of protocol files."""
    find_files: FindFiles | None = None
    """Function that finds the files if options name them; if it is None, `file_names` are used."""
    check: Callable[[str, Settings], None] | None = None
    """Function that takes the protocol's name and the settings, and raises InputError if the
    settings do not fit. The evaluation calls it before it computes any features."""
    has_distractors: bool = False
    """Whether probes are searched among distractors, whose features the user gives by
    --distractors."""

    def files(
        self,
        folder: Path,
        settings: Settings = Settings(),
        dataset: Path | None = None,
    ) -> list[Path]:
        """Returns the files that define the comparisons of the protocol.

        Args:
          folder: the folder of protocol files.
          settings: the settings, which may name other files; those that the protocol does not
            accept are not used.
          dataset: the folder of the prepared data set, if there is one.

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
          features: the features and names of the images.
          files: the files that `files` returned.
          settings: the settings; those that the protocol does not accept are not used.

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
