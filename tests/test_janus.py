"""IJB-A, CS3, IJB-B and IJB-C by name: templates matched and searched, from small lists."""

import numpy as np
import pytest
from named_people import PEOPLE, PLAIN, named_people, write_lists

from hyperface.errors import InputError
from hyperface.protocols import registry
from hyperface.protocols.features import NamedFeatures
from hyperface.protocols.ijb import TemplatePairs, Templates
from hyperface.protocols.protocol import Settings
from hyperface.protocols.result import Figure
from hyperface.protocols.template_protocols import face_names, score_search, score_templates
from hyperface.protocols.template_rules import TEMPLATE_RULES


@pytest.fixture
def named(rng):
    return named_people(rng)


IJB_HEADER = "TEMPLATE_ID,SUBJECT_ID,FILENAME,SIGHTING_ID"


def half_templates(half):
    """A template a person of three images, as lines of a list."""
    return [
        f"{person}{half},{person},p{person}/{image}.png,{image}"
        for person in range(PEOPLE)
        for image in range(3 * half, 3 * half + 3)
    ]


def test_templates_report_supported_rates_only(named):
    people = np.array([int(name[1]) for name in named.names])
    template = people * 2 + np.arange(48) % 2
    templates = Templates(template, people, np.arange(48), list(named.names))
    ids = np.unique(template)
    first, second = (ids[i] for i in np.triu_indices(ids.size, 1))
    pairs = TemplatePairs(first, second, first // 2 == second // 2)
    scored = score_templates("ijba", named, [(templates, pairs)] * 2, 8)
    # 112 different pairs.
    assert scored.figures == dict.fromkeys(("TAR at FAR 0.01", "TAR at FAR 0.1"), Figure(1.0, 0.0))
    with pytest.raises(InputError, match="known to be the same or not"):
        score_templates("x", named, [(templates, pairs._replace(same=None))], None)


def test_templates_are_searched_in_a_gallery(named):
    """Six people enrolled, two images a template; probes of all eight."""
    people = np.array([int(name[1]) for name in named.names])
    image = np.array([int(name[3]) for name in named.names])

    def templates(use, first):
        ids = first + people[use]
        names = [named.names[i] for i in np.flatnonzero(use)]
        return Templates(ids, people[use], np.arange(use.sum()), names)

    gallery = templates((image < 2) & (people < 6), 100)
    probes = templates(image >= 4, 200)
    for gammas, pool in ((8, False), (None, True)):
        scored = score_search(
            "ijba-search", named, [(gallery, probes)] * 2, gammas, pool_media=pool
        )
        assert scored.figures["rank-1"] == Figure(1.0, 0.0)
        # Two templates of people who are not enrolled support neither FAR.
        assert not any("DIR" in name for name in scored.figures)
    assert scored.ranks.shape == (50,)


def test_template_ids_of_gallery_and_probes_are_two_things(named):
    """The same ids on both sides, of other people: nothing is averaged together."""
    people = np.array([int(name[1]) for name in named.names])
    first = np.array([int(name[3]) for name in named.names]) < 3
    names = [[named.names[i] for i in np.flatnonzero(side)] for side in (first, ~first)]
    gallery = Templates(people[first], people[first], np.arange(24), names[0])
    shifted = (people[~first] + 1) % PEOPLE
    probes = Templates(shifted, people[~first], np.arange(24), names[1])
    apart = probes._replace(template=100 + shifted)
    found = score_search("search", named, [(gallery, probes)], 8)
    assert found.figures["rank-1"].value == 1.0
    assert found.figures == score_search("search", named, [(gallery, apart)], 8).figures
    assert "split 1: 16 templates of 48 images" in found.steps


def test_an_image_of_two_people_has_a_face_of_each(named):
    """A group photograph in which the lists name 0 and 1; elsewhere an image goes by its name."""
    one = Templates(np.arange(4), np.array([0, 1, 0, 2]), np.arange(4),
                    ["g/1.jpg", "g/1.jpg", "p0/0.png", "p2/0.png"])  # fmt: skip
    other = one._replace(names=["p0/1.png", "p1/1.png", "g/1.jpg", "p2/0.png"])
    assert face_names([one, other]) == [
        ["g/1@0.jpg", "g/1@1.jpg", "p0/0.png", "p2/0.png"],
        ["p0/1.png", "p1/1.png", "g/1@0.jpg", "p2/0.png"],
    ]
    rows = named.rows(["p0/2.png", "p1/2.png"], "")
    faces = NamedFeatures(
        [*named.names, "g/1@0.jpg", "g/1@1.jpg"],
        np.concatenate([named.features, named.features[rows]]),
    )
    scored = score_search("search", faces, [(one, other)], 8)
    assert scored.figures["rank-1"].value == 1.0
    wanted = r"image of search \(several people in an image: FILE@SUBJECT.EXT each\), found none of"
    with pytest.raises(InputError, match=wanted + r" 'g/1@0.jpg'"):
        score_search("search", named, [(one, other)], 8)


def test_ijba_reads_its_ten_splits(named, tmp_path):
    """1:1 and 1:N from small lists of its form."""
    compared = [f"{one}0,{other}1" for one in range(PEOPLE) for other in range(PEOPLE)]
    for number in range(1, 11):
        write_lists(
            tmp_path,
            {
                f"IJB-A_11_sets/split{number}/verify_metadata_{number}.csv": [
                    IJB_HEADER, *half_templates(0), *half_templates(1),
                ],
                f"IJB-A_11_sets/split{number}/verify_comparisons_{number}.csv": compared,
                f"IJB-A_1N_sets/split{number}/search_gallery_{number}.csv": [
                    IJB_HEADER, *half_templates(0)[:18],
                ],
                f"IJB-A_1N_sets/split{number}/search_probe_{number}.csv": [
                    IJB_HEADER, *half_templates(1),
                ],
            },
        )  # fmt: skip
    told = []
    settings = Settings(progress=lambda *at: told.append(at))
    verified = registry.score("ijba", named, tmp_path, settings)
    assert verified.figures == {"TAR at FAR 0.1": Figure(1.0, 0.0)}  # Of 56 different pairs.
    assert any("gamma = 1..8 " in step for step in verified.steps)
    assert told[-1] == (640, 640)
    searched = registry.score("ijba-search", named, tmp_path, settings)
    assert searched.figures["rank-1"] == Figure(1.0, 0.0)
    assert any("gamma = 1..8 " in step for step in searched.steps)
    assert searched.counts["probes without a mate"] == [2] * 10
    assert told[-1] == (80, 80)
    assert all(done <= total for done, total in told)


@pytest.mark.parametrize(("name", "gallery"), [("ijbb", "S"), ("ijbc", "G")])
def test_ijbb_and_ijbc_compare_mean_features(named, tmp_path, name, gallery):
    """1:1, and 1:N in two galleries; images are those of the list of faces."""
    templates = [(int(line.split(",")[0]), line.split(",")[2:]) for half in (0, 1)
                 for line in half_templates(half)]  # fmt: skip
    first, second = half_templates(0)[:12], half_templates(0)[12:]
    write_lists(
        tmp_path / name,
        {
            f"{name}_face_tid_mid.txt": [f"{image} {tid} {mid}" for tid, (image, mid) in templates],
            f"{name}_template_pair_label.txt": [
                f"{one}0 {other}1 {int(one == other)}"
                for one in range(1, PEOPLE)
                for other in range(PEOPLE)
            ],
            f"{name}_1N_gallery_{gallery}1.csv": [IJB_HEADER, *first],
            f"{name}_1N_gallery_{gallery}2.csv": [IJB_HEADER, *second],
            f"{name}_1N_probe_mixed.csv": [IJB_HEADER, *half_templates(1)],
        },
    )
    verified = registry.score(name, named, tmp_path)
    assert verified.figures["TAR at FAR 0.1"] == Figure(1.0, None)
    assert any("mean features" in step for step in verified.steps)
    searched = registry.score(f"{name}-search", named, tmp_path)
    assert searched.figures["rank-1"] == Figure(1.0, 0.0)
    assert searched.counts == {
        "gallery templates": [4, 4],
        "probes with a mate": [4, 4],
        "probes without a mate": [4, 4],
    }
    path = tmp_path / name / f"{name}_1N_gallery_{gallery}2.csv"
    path.write_text("\n".join([IJB_HEADER, *second, "990,5,p5/0.png,1"]) + "\n")
    with pytest.raises(InputError, match=r"every template of .*2.csv, found none of 990 \(1 of 5"):
        registry.score(f"{name}-search", named, tmp_path)


def test_cs3_reads_its_lists_and_fuses_with_two_gammas(named, tmp_path):
    """One split with the columns of IJB-A; half of each person's images make a template."""
    header = "TEMPLATE_ID,SUBJECT_ID,FILENAME,SIGHTING_ID"
    lines = {
        half: [
            f"{person}{half},{person},p{person}/{image}.png,{image}"
            for person in range(PEOPLE)
            for image in range(3 * half, 3 * half + 3)
        ]
        for half in (0, 1)
    }
    comparisons = [f"{one}0,{other}1" for one in range(PEOPLE) for other in range(PEOPLE)]
    texts = {
        "verify_metadata.csv": [header, *lines[0], *lines[1]],
        "verify_comparisons.csv": comparisons,
        "search_gallery.csv": [header, *lines[0]],
        "search_probe.csv": [header, *lines[1]],
    }
    (tmp_path / "cs3").mkdir()
    for name, text in texts.items():
        (tmp_path / "cs3" / name).write_text("\n".join(text) + "\n")
    verified = registry.score("cs3", named, tmp_path, PLAIN)
    assert verified.figures["TAR at FAR 0.1"] == Figure(1.0, None)
    assert any("gamma = 1..2 " in step for step in verified.steps)
    # A rule for ijbb or ijbc in the same command, which would need a file of detector scores.
    by_rule = Settings(template_rule=TEMPLATE_RULES["insightface"])
    assert registry.score("cs3", named, tmp_path, by_rule).record() == verified.record()
    searched = registry.score("cs3-search", named, tmp_path, PLAIN)
    assert searched.figures["rank-1"] == Figure(1.0, None)
    assert any("gamma = 1..2 " in step for step in searched.steps)
