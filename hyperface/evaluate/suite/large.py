"""Millions of comparisons: BLUFR on LFW, and MegaFace."""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from hyperface.data import protocols
from hyperface.evaluate.blufr import blufr
from hyperface.evaluate.cosine import Place
from hyperface.evaluate.identification import megaface
from hyperface.evaluate.named import NamedFeatures
from hyperface.evaluate.roc import Roc
from hyperface.evaluate.scored import Figure, Scored
from hyperface.evaluate.suite.settings import OVER_TRIALS, Settings
from hyperface.evaluate.threshold import RULE_STEPS


def score_blufr(
    name: str, named: NamedFeatures, paths: Sequence[Path], settings: Settings
) -> Scored:
    """BLUFR's ten trials: VR at FAR 0.1 % and DIR at FAR 1 %, mean and deviation."""
    config = protocols.blufr(paths[0])
    features = named.features[named.rows(config.images, name)]
    found = blufr(
        features,
        config.labels,
        config.trials,
        rule=settings.rule,
        place=settings.place,
        progress=settings.progress,
    )
    verification, identification = found.verification(0.001), found.identification(0.01, 1)
    fars = found.verification_fars
    mean = found.verification_rates.mean(axis=0)
    return Scored(
        protocol=name,
        figures={
            "VR at FAR 0.1 %, mean - deviation": Figure(verification.mean_minus_std),
            "VR at FAR 0.1 %": Figure(verification.mean, verification.std),
            "DIR at FAR 1 %, rank 1, mean - deviation": Figure(identification.mean_minus_std),
            "DIR at FAR 1 %, rank 1": Figure(identification.mean, identification.std),
        },
        steps=(
            *named.steps,
            f"{len(found.num_genuine)} trials, {found.num_genuine.min():,} to "
            f"{found.num_genuine.max():,} same and {found.num_impostors.min():,} to "
            f"{found.num_impostors.max():,} different pairs each; training images are not used",
            "features scaled to unit length, similarity is the cosine in float32",
            RULE_STEPS[settings.rule],
            "impostor scores are those of different pairs (VR), and the highest of each probe "
            "without a mate (DIR); reported is mean minus sample standard deviation",
        ),
        spread=OVER_TRIALS,
        curves={name: Roc(fars, mean, np.full(fars.size, np.nan))},
        details={
            "verification FARs": fars.tolist(),
            "verification rates": found.verification_rates.tolist(),
            "identification FARs": found.identification_fars.tolist(),
            "ranks": found.ranks.tolist(),
            "identification rates": found.identification_rates.tolist(),
            "FARs with too few pairs": fars[~found.verification_supported.all(axis=0)].tolist(),
        },
    )


def score_megaface(
    probes: NamedFeatures,
    distractors: np.ndarray,
    *,
    distractor_names: Sequence[str] | None = None,
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
      noise: names of images that are left out of both: whole ones, or the part after the last "/".
      noises: what the lists of them are called, to be reported.
      place: puts blocks of distractors on devices, as `megaface` takes it.
      progress: called with the distractors done and all distractors.
    """
    keep_probes = _kept(probes.names, noise)
    keep_distractors = None if distractor_names is None else _kept(distractor_names, noise)
    people = [name.partition("/")[0] for name in probes.names]
    found = megaface(
        probes.features,
        np.unique(people, return_inverse=True)[1],
        distractors,
        keep_probes=keep_probes,
        keep_distractors=keep_distractors,
        place=place,
        progress=progress,
    )
    rate = "TAR at FAR 1e-6" if found.supported[0] else "TAR at no false accept"
    return Scored(
        protocol="megaface",
        figures={
            "rank-1": Figure(float(found.cmc[0])),
            "rank-10": Figure(float(found.cmc[9])),
            rate: Figure(float(found.true_accept_rates[0])),
        },
        steps=(
            *probes.steps,
            f"{found.num_probes:,} probes of {np.unique(people).size:,} people, "
            f"{found.num_distractors:,} distractors, {found.ranks.size:,} searches, each for one "
            "mate among the distractors; ties count against it",
            f"noise lists: {', '.join(noises) or 'none'}",
            f"{np.sum(~keep_probes):,} probes left out, "
            + (
                "distractors have no names and are all taken"
                if keep_distractors is None
                else f"{np.sum(~keep_distractors):,} distractors left out"
            ),
            "features scaled to unit length, similarity is the cosine",
            RULE_STEPS["strict"],
            "impostor scores are all of a probe with a distractor",
        ),
        ranks=found.cmc,
    )


def _kept(names: Sequence[str], noise: Collection[str]) -> np.ndarray:
    noise = frozenset(noise)
    return np.array([name not in noise and name.rpartition("/")[2] not in noise for name in names])
