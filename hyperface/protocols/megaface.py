"""MegaFace: probes among distractors, less the images of noise lists."""

from collections.abc import Callable, Collection, Sequence

import jax.numpy as jnp
import numpy as np

from hyperface.errors import InputError
from hyperface.metrics.chance import guess_warning
from hyperface.metrics.cosine import Place
from hyperface.metrics.identification import megaface
from hyperface.metrics.threshold import RULE_STEPS
from hyperface.protocols.features import NamedFeatures
from hyperface.protocols.readers import ImageList
from hyperface.protocols.result import Figure, Scored


def score_megaface(
    probes: NamedFeatures,
    distractors: np.ndarray,
    *,
    distractor_names: Sequence[str] | None = None,
    probe_list: ImageList | None = None,
    distractor_list: ImageList | None = None,
    noise: Collection[str] = (),
    noises: Sequence[str] = (),
    place: Place = jnp.asarray,
    progress: Callable[[int, int], None] | None = None,
) -> Scored:
    """MegaFace: rank-1 of probes among distractors, and TAR at FAR 1e-6.

    Args:
      probes: images of people, named person/file.
      distractors: [distractors, dim], a memory-mapped array for one.
      distractor_names: of the distractors, where they have any.
      probe_list: the probes to take, such as the devkit's 3,530, with their people; None takes all,
        and people from the names.
      distractor_list: the distractors to take; None takes all.
      noise: names of images that are left out of both: whole ones, or the part after the last "/".
      noises: what the lists of them are called, to be reported.
      place: puts blocks of distractors on devices, as `megaface` takes it.
      progress: called with the distractors done and all distractors.

    Raises:
      InputError: an image of a list has no feature, or distractors without names have a list.
      ValueError: as `megaface`.
    """
    chosen, people = _chosen(probes, probe_list)
    keep_probes = _kept(chosen.names, noise)
    keep_distractors = _listed(distractor_names, distractor_list)
    removed = 0
    if distractor_names is not None:
        clean = _kept(distractor_names, noise)
        removed = int(np.sum(keep_distractors & ~clean))
        keep_distractors &= clean
    found = megaface(
        chosen.features,
        np.unique(people, return_inverse=True)[1],
        distractors,
        keep_probes=keep_probes,
        keep_distractors=keep_distractors,
        place=place,
        progress=progress,
    )
    rate = "TAR at FAR 1e-6" if found.supported[0] else "TAR at no false accept"
    # Names in a random order leave some mates the mate.
    pairs = found.num_probes * (found.num_probes - 1)
    chance = 1.0 / (1 + found.num_distractors) + found.ranks.size / pairs
    impostors = found.num_probes * found.num_distractors
    return Scored(
        protocol="megaface",
        figures={
            "rank-1": Figure(float(found.cmc[0])),
            "rank-10": Figure(float(found.cmc[9])),
            rate: Figure(float(found.true_accept_rates[0])),
        },
        steps=(
            *probes.steps,
            _told("probes", probe_list),
            _told("distractors", distractor_list),
            f"{found.num_probes:,} probes of {np.unique(people).size:,} people, "
            f"{found.num_distractors:,} distractors, {found.ranks.size:,} searches, each for one "
            "mate among the distractors; ties count against it",
            f"noise lists: {', '.join(noises) or 'none'}",
            f"{np.sum(~keep_probes):,} probes left out, "
            + (
                "distractors have no names and are all taken"
                if distractor_names is None
                else f"{removed:,} distractors left out"
            ),
            "features scaled to unit length, similarity is the cosine",
            RULE_STEPS["strict"],
            f"impostor scores are all {impostors:,} of a probe with a distractor",
            *guess_warning("rank-1", found.cmc[0], chance, found.ranks.size, least=chance),
        ),
        ranks=found.cmc,
        counts={
            "probes": found.num_probes,
            "distractors": found.num_distractors,
            "searches": int(found.ranks.size),
            "same pairs": int(found.ranks.size) // 2,
            "different pairs": impostors,
        },
    )


def _chosen(probes: NamedFeatures, listed: ImageList | None) -> tuple[NamedFeatures, list[str]]:
    """The probes that are taken, and their people."""
    if listed is not None:
        rows = probes.rows(listed.names, listed.source)
        probes = probes._replace(names=listed.names, features=probes.features[rows])
    if listed is not None and listed.ids is not None:
        return probes, listed.ids
    return probes, [name.partition("/")[0] for name in probes.names]


def _listed(names: Sequence[str] | None, listed: ImageList | None) -> np.ndarray | None:
    """Which distractors are taken; None, all of those without names."""
    if names is None:
        if listed is not None:
            raise InputError(
                f"megaface: expected distractors with names, of which {listed.source} chooses, "
                "found none. Put their names, one a line, in a .txt beside the .npy."
            )
        return None
    if listed is None:
        return np.ones(len(names), bool)
    wanted = frozenset(listed.names)
    missing = sorted(wanted.difference(names))
    if missing:
        raise InputError(
            f"megaface: expected a distractor for every image of {listed.source}, found none of "
            f"{missing[0]!r} ({len(missing):,} of {len(wanted):,} are missing)."
        )
    return np.array([name in wanted for name in names])


def _told(kind: str, listed: ImageList | None) -> str:
    if listed is None:
        return f"no list of {kind}: all there are"
    return f"{kind}: the {len(listed.names):,} of {listed.source}"


def _kept(names: Sequence[str], noise: Collection[str]) -> np.ndarray:
    noise = frozenset(noise)
    return np.array([name not in noise and name.rpartition("/")[2] not in noise for name in names])
