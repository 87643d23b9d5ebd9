"""TinyFace: gallery, probes and distractors, compared with a search written out."""

import numpy as np
import pytest
import scipy.io
from named_people import PLAIN

from hyperface.errors import InputError
from hyperface.protocols import registry
from hyperface.protocols.features import NamedFeatures
from hyperface.protocols.tinyface import read_tinyface_list, search_mates


def write_list(path, kind, names, people):
    cells = np.empty((len(names), 1), object)
    cells[:, 0] = names
    variables = {f"{kind}_set": cells, f"{kind}_ids": np.array(people, float)[:, None]}
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, variables)


@pytest.fixture
def tinyface(tmp_path, rng):
    """Lists of six people with two gallery images and a probe each, and features with noise."""
    people = np.repeat(np.arange(1, 7), 2)
    gallery = [f"{person}_{image}.jpg" for image, person in enumerate(people)]
    probes = [f"{person}_p.jpg" for person in range(1, 7)]
    folder = tmp_path / "tinyface"
    write_list(folder / "gallery_match_img_ID_pairs.mat", "gallery", gallery, people)
    write_list(folder / "probe_img_ID_pairs.mat", "probe", probes, range(1, 7))
    directions = rng.standard_normal((7, 4))
    of = np.concatenate([people, np.arange(1, 7), np.zeros(30, int)])
    features = directions[of] + 0.8 * rng.standard_normal((of.size, 4))
    features[of == 0] = rng.standard_normal((30, 4))
    names = [f"Gallery_Match/{name}" for name in gallery] + [f"Probe/{name}" for name in probes]
    names += [f"Gallery_Distractor/{number}.jpg" for number in range(30)]
    order = rng.permutation(of.size)
    return tmp_path, NamedFeatures([names[i] for i in order], features[order]), (features, of)


def area_under_precision(mates, scores):
    """The area by a walk along the whole ranking, image by image."""
    area, recall, precision, hits = 0.0, 0.0, 1.0, 0
    for place, row in enumerate(np.argsort(-scores), 1):
        hits += int(mates[row])
        now = hits / mates.sum(), hits / place
        area += (now[0] - recall) * (precision + now[1]) / 2
        recall, precision = now
    return area


def test_ranks_and_mean_average_precision(tinyface):
    folder, named, (features, of) = tinyface
    found = registry.score("tinyface", named, folder, PLAIN)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    gallery = np.r_[0:12, 18:48]
    scores = unit[12:18] @ unit[gallery].T
    mates = of[gallery] == of[12:18, None]
    ranks = [int(np.argmax(m[np.argsort(-s)])) + 1 for s, m in zip(scores, mates, strict=True)]
    areas = [area_under_precision(m, s) for s, m in zip(scores, mates, strict=True)]
    assert 1 < np.mean(ranks) < 10  # Neither all right nor a guess.
    assert found.figures["rank-1"].value == np.mean(np.array(ranks) == 1)
    assert found.figures["rank-5"].value == np.mean(np.array(ranks) <= 5)
    assert found.figures["mAP"].value == pytest.approx(np.mean(areas), abs=1e-6)
    assert found.counts == {"probes": 6, "gallery images": 12, "distractors": 30}
    assert "searched among 12 gallery images and 30 distractors" in " ".join(found.steps)


def test_ties_count_against_the_mates():
    same = np.array([[1.0, 0.0], [0.0, 1.0]])
    gallery = np.array([[2.0, 0.0], [3.0, 0.0], [0.0, 1.0]])
    found = search_mates(same, np.array([1, 2]), gallery, np.array([1, 0, 2]))
    assert found.ranks.tolist() == [2, 1]
    assert found.average_precision.tolist() == [0.25, 1.0]


def test_names_in_a_random_order_are_warned_of(tinyface, rng):
    folder, named, _ = tinyface
    random = named._replace(features=rng.standard_normal(named.features.shape))
    assert any("WARNING" in s for s in registry.score("tinyface", random, folder, PLAIN).steps)


def test_what_cannot_be_scored_is_one_clear_error(tinyface):
    folder, named, _ = tinyface
    known = [i for i, name in enumerate(named.names) if not name.startswith("Gallery_D")]
    without = NamedFeatures([named.names[i] for i in known], named.features[known])
    with pytest.raises(InputError, match="expected features of images in Gallery_Distractor/"):
        registry.score("tinyface", without, folder, PLAIN)
    renamed = named._replace(names=[n.replace("Match/1_0", "Match/x") for n in named.names])
    with pytest.raises(InputError, match=r"found none of 'Gallery_Match/1_0.jpg'"):
        registry.score("tinyface", renamed, folder, PLAIN)
    path = folder / "tinyface/probe_img_ID_pairs.mat"
    write_list(path, "probe", ["9_p.jpg"], [9])
    strange = named._replace(names=[n.replace("Probe/1_", "Probe/9_") for n in named.names])
    with pytest.raises(InputError, match=r"tinyface: expected a mate of every probe .* person 9"):
        registry.score("tinyface", strange, folder, PLAIN)


@pytest.mark.parametrize(
    ("names", "people", "message"),
    [
        (["a.jpg", "a.jpg"], [1, 2], r"probe_set:2: expected each image once, found .* row 1"),
        (["a.jpg", "../b.jpg"], [1, 2], r"probe_set:2: expected an image's path"),
        (["a.jpg", "b.jpg"], [1, 2.5], "2 whole numbers in probe_ids"),
        (["a.jpg", "b.jpg"], [1], "2 whole numbers in probe_ids"),
        (["a.jpg", 3.0], [1, 2], r"probe_set:2: expected an image's path"),
    ],
)
def test_damaged_lists_name_the_variable_and_the_row(tmp_path, names, people, message):
    write_list(tmp_path / "a.mat", "probe", names, people)
    with pytest.raises(InputError, match=message):
        read_tinyface_list(tmp_path / "a.mat", "probe", "Probe")
    with pytest.raises(InputError, match="expected cells of names in gallery_set"):
        read_tinyface_list(tmp_path / "a.mat", "gallery", "Gallery_Match")
