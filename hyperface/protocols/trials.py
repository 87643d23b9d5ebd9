"""BLUFR on LFW: ten trials of millions of comparisons."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hyperface.metrics.chance import guess_warning
from hyperface.metrics.roc import Roc
from hyperface.metrics.threshold import RULE_STEPS
from hyperface.protocols import readers
from hyperface.protocols.blufr import blufr
from hyperface.protocols.features import NamedFeatures
from hyperface.protocols.result import Figure, Scored
from hyperface.protocols.settings import OVER_TRIALS, Settings


def score_blufr(
    name: str, named: NamedFeatures, paths: Sequence[Path], settings: Settings
) -> Scored:
    """BLUFR's ten trials: VR at FAR 0.1 % and DIR at FAR 1 %, mean and deviation."""
    config = readers.blufr(paths[0])
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
    # Names in a random order leave some same pairs the same.
    chance = 0.001 + np.mean(found.num_genuine / (found.num_genuine + found.num_impostors))
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
            *guess_warning(
                "VR at FAR 0.1 %", verification.mean, chance, found.num_genuine.min(), least=0.001
            ),
        ),
        spread=OVER_TRIALS,
        curves={name: Roc(fars, mean, np.full(fars.size, np.nan))},
        counts={
            "same pairs": found.num_genuine.tolist(),
            "different pairs": found.num_impostors.tolist(),
        },
        details={
            "verification FARs": fars.tolist(),
            "verification rates": found.verification_rates.tolist(),
            "identification FARs": found.identification_fars.tolist(),
            "ranks": found.ranks.tolist(),
            "identification rates": found.identification_rates.tolist(),
            "FARs with too few pairs": fars[~found.verification_supported.all(axis=0)].tolist(),
        },
    )
