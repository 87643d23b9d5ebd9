"""Features of a few people, and lists on disk, for the tests of protocols by name."""

import numpy as np

from hyperface.protocols.features import NamedFeatures
from hyperface.protocols.pair_rules import PRESETS
from hyperface.protocols.protocol import Settings

PLAIN = Settings(PRESETS["plain"])
PEOPLE, IMAGES = 8, 6


def named_people(rng):
    """Eight people as directions, with a little noise an image, of any length, in any order."""
    names = [f"p{person}/{image}.png" for person in range(PEOPLE) for image in range(IMAGES)]
    directions = np.repeat(rng.standard_normal((PEOPLE, 16)), IMAGES, axis=0)
    features = directions + 0.05 * rng.standard_normal(directions.shape)
    features *= rng.uniform(0.1, 10, (len(names), 1))
    order = rng.permutation(len(names))
    return NamedFeatures([names[i] for i in order], features[order], ("made up",))


def write_lists(folder, lists):
    for name, lines in lists.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n")
