"""insightface's rule of templates, as its code has it, by loops; and by the protocols' names."""

import numpy as np
import pytest
from named_people import write_lists

from hyperface.errors import InputError
from hyperface.protocols import registry
from hyperface.protocols.features import NamedFeatures
from hyperface.protocols.protocol import Settings
from hyperface.protocols.template_rules import TEMPLATE_RULES, group_by_rule
from hyperface.protocols.templates import template_scores
from hyperface.runs import evaluate


def by_loops(features, template, media, detector, rule):
    """Templates as the code behind insightface's tables builds them."""
    x = features if rule.norms else features / np.linalg.norm(features, axis=1, keepdims=True)
    if rule.detector:
        x = np.array([v * score for v, score in zip(x, detector, strict=True)])
    found = {}
    for one in set(template.tolist()):
        of_media = [
            np.mean(x[(template == one) & (media == medium)], axis=0)
            for medium in set(media[template == one].tolist())
        ]
        total = np.sum(of_media, axis=0)
        found[one] = total / np.linalg.norm(total)
    return found


@pytest.fixture
def images(rng):
    template, media = rng.integers(10, 22, 90), rng.integers(0, 4, 90)
    features = rng.standard_normal((90, 7)) * rng.uniform(0.2, 9, (90, 1))
    return features, template, media, rng.uniform(0.3, 1.0, 90)


@pytest.mark.parametrize("name", TEMPLATE_RULES)
def test_templates_are_those_of_the_loops(name, images):
    rule = TEMPLATE_RULES[name]
    expected = by_loops(*images, rule)
    grouped = group_by_rule(*images[:3], rule, images[3])
    assert grouped.ids.tolist() == sorted(expected)
    np.testing.assert_allclose(grouped.features, [expected[i] for i in grouped.ids], rtol=1e-12)
    first, second = np.triu_indices(grouped.ids.size, 1)
    ids = grouped.ids[first], grouped.ids[second]
    scores = template_scores(grouped, *ids, gammas=None)
    by_hand = [expected[a] @ expected[b] for a, b in zip(*ids, strict=True)]
    np.testing.assert_allclose(scores, by_hand, rtol=1e-10)
    assert f"template rule {name}: " in grouped.steps[0]


def test_the_rules_differ_and_means_are_not_scaled_again():
    """One medium of two opposite images counts half of that of one image."""
    features = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 3.0]])
    template, media = np.zeros(3, int), np.array([0, 0, 1])
    unit, norms, both = (
        group_by_rule(features, template, media, rule, np.array([1.0, 1.0, 0.5])).features[0]
        for rule in (TEMPLATE_RULES[f"insightface{end}"] for end in ("-unit", "-norms", ""))
    )
    for found, expected in ((unit, [0.5, 1.5]), (norms, [0.5, 3.5]), (both, [0.5, 2.0])):
        np.testing.assert_allclose(found, np.array(expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("name", TEMPLATE_RULES)
def test_features_keep_their_type(name, images):
    features, template, media, detector = images
    grouped = group_by_rule(
        features.astype(np.float32), template, media, TEMPLATE_RULES[name], detector
    )
    assert grouped.features.dtype == np.float32


@pytest.mark.parametrize(
    ("detector", "message"),
    [
        (None, "the detector's score of each image, found none"),
        (np.ones(5), "above 0 for each of 90 images, found 5"),
        (np.arange(90.0), "above 0 for each of 90 images, found 90, the lowest 0"),
        (np.full(90, 1e-60), "above 0 for each of 90 images, found 90, the lowest 0"),
    ],
)
def test_detector_scores_that_do_not_fit_are_refused(detector, message, images):
    with pytest.raises(ValueError, match=message):
        group_by_rule(
            images[0].astype(np.float32), *images[1:3], TEMPLATE_RULES["insightface"], detector
        )
    with pytest.raises(ValueError, match="a template for each of 90 images"):
        group_by_rule(images[0], images[1][1:], images[2][1:], TEMPLATE_RULES["insightface-unit"])


@pytest.fixture
def ijbc(tmp_path, rng, images):
    """IJB-C's files with the images above, and their features."""
    _, template, media, detector = images
    people = {t: t // 2 for t in range(10, 22)}
    directions = rng.standard_normal((11, 7))
    features = directions[[people[t] for t in template.tolist()]]
    features = features + 0.8 * rng.standard_normal((90, 7))
    rows = list(enumerate(zip(template.tolist(), media.tolist(), detector.tolist(), strict=True)))
    ids = sorted(set(template.tolist()))
    pairs = [(a, b, int(people[a] == people[b])) for a in ids for b in ids if a < b]
    listed = ["TEMPLATE_ID,SUBJECT_ID,FILENAME,SIGHTING_ID"]
    sides = {
        "gallery_G1": [t for t in ids if t % 2 == 0 and t < 16],
        "gallery_G2": [t for t in ids if t % 2 == 0 and t >= 16],
        "probe_mixed": [t for t in ids if t % 2],
    }
    write_lists(
        tmp_path,
        {
            "ijbc/ijbc_face_tid_mid.txt": [f"{i + 1}.jpg {t} {m}" for i, (t, m, _) in rows],
            "ijbc/ijbc_template_pair_label.txt": [f"{a} {b} {same}" for a, b, same in pairs],
            "ijbc/ijbc_name_5pts_score.txt": [
                f"{i + 1}.jpg {' '.join(['1'] * 10)} {score!r}" for i, (_, _, score) in rows
            ],
            **{
                f"ijbc/ijbc_1N_{side}.csv": [*listed, *(f"{t},{people[t]},1.jpg,1" for t in of)]
                for side, of in sides.items()
            },
        },
    )
    named = NamedFeatures([f"{i + 1}.jpg" for i in range(90)], features)
    return tmp_path, named, pairs


def test_ijbc_by_name(ijbc, images):
    folder, named, pairs = ijbc
    rule = TEMPLATE_RULES["insightface"]
    found = registry.score("ijbc", named, folder, Settings(template_rule=rule))
    expected = by_loops(named.features, *images[1:], rule)
    scores = np.array([expected[a] @ expected[b] for a, b, _ in pairs])
    same = np.array([kind for *_, kind in pairs], bool)
    refused = np.sort(scores[~same])[::-1][int(0.1 * (~same).sum())]
    assert found.figures["TAR at FAR 0.1"].value == pytest.approx(np.mean(scores[same] > refused))
    assert any("split 1: template rule insightface: images weigh" in step for step in found.steps)
    other = registry.score("ijbc", named, folder, Settings())
    assert not any("template rule" in step for step in other.steps)
    searched = registry.score("ijbc-search", named, folder, Settings(template_rule=rule))
    assert any("split 2: template rule insightface" in step for step in searched.steps)
    for by_rule in (found, searched):
        # The rule's features are no means, and its own sentence says what they are.
        assert any("cosine of the templates' features" in step for step in by_rule.steps)
        assert not any("mean feature" in step for step in by_rule.steps)
    assert any("cosine of the templates' mean features" in step for step in other.steps)

    (folder / "ijbc/ijbc_name_5pts_score.txt").write_text("1.jpg" + " 1" * 10 + " 0.5\n")
    with pytest.raises(
        InputError, match=r"the detector's score of every image, .*\(89 are missing"
    ):
        registry.score("ijbc", named, folder, Settings(template_rule=rule))
    (folder / "ijbc/ijbc_name_5pts_score.txt").unlink()
    with pytest.raises(InputError, match="ijbc_name_5pts_score"):
        registry.find("ijbc").files(folder, Settings(template_rule=rule))
    unit = Settings(template_rule=TEMPLATE_RULES["insightface-unit"])
    assert registry.score("ijbc", named, folder, unit).figures


def test_options_that_contradict_or_are_unknown_are_refused(ijbc, tmp_path, capsys):
    folder, named, _ = ijbc
    np.savez(tmp_path / "f.npz", names=np.array(named.names), features=named.features)

    def plan(protocol="ijbc", **options):
        source, given = tmp_path / "f.npz", {"protocol_dir": folder, **options}
        return evaluate.plan(evaluate.Evaluate(source, protocol=protocol, **given))

    (task,) = plan(template_rule="insightface")
    assert task.files[-1].name == "ijbc_name_5pts_score.txt"
    for more in ({"gammas": 2}, {"pool_media": True}):
        with pytest.raises(InputError, match="template-rule insightface: expected no --gammas"):
            plan(template_rule="insightface", **more)
    with pytest.raises(InputError, match=r"unknown template rule 'insightfac'. Did you mean 'insi"):
        plan(template_rule="insightfac")
    with pytest.raises(InputError, match="unknown preset 'plane'"):
        plan(preset="plane")
    with pytest.raises(InputError, match=r"--template-rule: expected .*ijbb, ijbb-search"):
        plan("ijba", template_rule="insightface")
    command = [str(tmp_path / "f.npz"), "--protocol", "ijbc", "--protocol-dir", str(folder)]
    with pytest.raises(SystemExit):
        evaluate.main([*command, "--template-rule", "arcface"])
    evaluate.main([*command, "--template-rule", "insightface", "--out", str(tmp_path / "out")])
    assert "template rule insightface: images weigh by the norms" in capsys.readouterr().out
