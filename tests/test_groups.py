"""Figures by groups of images: every number by another way, and files that are refused."""

import json

import numpy as np
import pytest
from named_people import PLAIN, write_lists

from hyperface.errors import InputError
from hyperface.protocols import registry
from hyperface.protocols.features import NamedFeatures
from hyperface.protocols.groups import ACROSS, read_groups
from hyperface.protocols.protocol import Settings
from hyperface.runs import evaluate

PEOPLE, IMAGES = 40, 6


@pytest.fixture
def named(rng):
    names = [f"p{p:02}/{i}.png" for p in range(PEOPLE) for i in range(IMAGES)]
    directions = np.repeat(rng.standard_normal((PEOPLE, 12)), IMAGES, axis=0)
    return NamedFeatures(names, directions + 0.9 * rng.standard_normal(directions.shape))


def grouping(tmp_path, lines):
    write_lists(tmp_path, {"groups.csv": ["name,group", *lines]})
    return read_groups(tmp_path / "groups.csv")


def by_parity():
    """People of even numbers are old and the others young."""
    return [f"p{p:02},{'young' if p % 2 else 'old'}" for p in range(PEOPLE)]


def test_every_number_of_a_folder_by_another_way(named, tmp_path):
    settings = Settings(bootstrap=0, grouping=grouping(tmp_path, by_parity()))
    found = registry.find("folder").score(named, [], settings)
    assert list(found.groups) == ["old", "young", ACROSS]
    tested = [
        i for i, name in enumerate(named.names)
        if name[:3] not in found.details["people who calibrate"]
    ]  # fmt: skip
    unit = named.features / np.linalg.norm(named.features, axis=1, keepdims=True)
    pairs = [(i, j) for i in tested for j in tested if i < j]
    person = [int(name[1:3]) for name in named.names]
    threshold, points = found.details["threshold of the accuracy"], found.calibration.points
    for label, group in found.groups.items():
        use = [
            (unit[i] @ unit[j], person[i] == person[j])
            for i, j in pairs
            if ("old", "young")[person[i] % 2] == label == ("old", "young")[person[j] % 2]
            or (label == ACROSS and person[i] % 2 != person[j] % 2)
        ]
        scores, same = map(np.array, zip(*use, strict=True))
        assert (group.same, group.different) == (same.sum(), (~same).sum())
        for point in points:
            name = f"FAR at FAR {100 * point.far:g} % of all pairs"
            if point.supported:
                expected = np.mean(scores[~same] >= point.threshold)
                assert group.figures[name] == pytest.approx(expected)
        if label == ACROSS:  # No person is in two groups.
            assert not any(name.startswith(("accuracy", "TAR", "EER")) for name in group.figures)
            continue
        right = (scores >= threshold) == same
        accuracy = (right[same].mean() + right[~same].mean()) / 2
        assert group.figures["accuracy"] == pytest.approx(accuracy)
        refused = np.sort(scores[~same])[::-1][int(0.01 * (~same).sum())]
        tar = np.mean(scores[same] > refused)
        assert group.figures["TAR at FAR 1 %"] == pytest.approx(tar)
        # 585 different pairs of a group are too few.
        assert "TAR at FAR 0.01 %" not in group.figures
    assert any(step.startswith("groups of groups.csv: ") for step in found.steps)
    assert found.record()["groups"]["old"]["same"] == found.groups["old"].same


def test_a_pair_list_is_decided_at_the_threshold_of_its_fold(named, tmp_path):
    lines = ["first,second,same,fold"]
    for number in range(400):
        one, other = number % PEOPLE, (number + 2) % PEOPLE
        i = number // PEOPLE % 5
        lines.append(f"p{one:02}/{i}.png,p{one:02}/{i + 1}.png,1,{number % 4}")
        lines.append(f"p{one:02}/{i}.png,p{other:02}/{(i + number) % 6}.png,0,{number % 4}")
    write_lists(tmp_path, {"pairs.csv": lines})
    # The row of an image goes before that of its person.
    rows = [*by_parity(), "p00/0.png,young"]
    settings = Settings(PLAIN.rules, grouping=grouping(tmp_path, rows))
    found = registry.find("pairs").score(named, [tmp_path / "pairs.csv"], settings)
    row = {name: i for i, name in enumerate(named.names)}
    unit = named.features / np.linalg.norm(named.features, axis=1, keepdims=True)
    right = {"old": ([], []), "young": ([], []), ACROSS: ([], [])}
    for line in lines[1:]:
        a, b, same, fold = line.split(",")
        groups = {
            "young" if x == "p00/0.png" or int(x[1:3]) % 2 else "old" for x in (a, b)
        }  # fmt: skip
        label = groups.pop() if len(groups) == 1 else ACROSS
        accepted = unit[row[a]] @ unit[row[b]] >= found.details["fold thresholds"][int(fold)]
        right[label][int(same)].append(accepted == (same == "1"))
    for label, (different, same) in right.items():
        group = found.groups[label]
        assert (group.same, group.different) == (len(same), len(different))
        expected = (np.mean(same) + np.mean(different)) / 2
        assert group.figures["accuracy"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([*by_parity(), "p99,old"], r"found 'p99' \(1 names in all\); the nearest name is 'p"),
        (by_parity()[1:], r"found none for 'p00/0.png' \(6 images in all\)"),
        (
            [f"p{p:02},{'one' if p else 'few'}" for p in range(PEOPLE)],
            "within each group, found .* 0 different pairs in 'few'. Join it",
        ),
    ],
)
def test_groups_that_do_not_fit_are_refused(lines, message, named, tmp_path):
    split = registry.find("folder").score(named, [], Settings(bootstrap=0))
    # The person of `few` has to be in the half that is tested.
    person = next(f"p{p:02}" for p in range(PEOPLE)
                  if f"p{p:02}" not in split.details["people who calibrate"])  # fmt: skip
    swap = {"p00": person, person: "p00"}
    lines = [swap.get(line[:3], line[:3]) + line[3:] for line in lines]
    message = message.replace("p00", person)
    with pytest.raises(InputError, match=message):
        registry.find("folder").score(
            named, [], Settings(bootstrap=0, grouping=grouping(tmp_path, lines))
        )


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["image,group", "a/1,x"], "groups.csv:1: expected the first line name,group"),
        (["name,group"], "groups.csv:2: expected rows"),
        (["name,group", "a/1"], "groups.csv:2: expected a name and its group"),
        (["name,group", "a/1,"], "groups.csv:2: expected a name and its group"),
        (["name,group", "a/1,x", "a/1,y"], "groups.csv:3: expected each name once"),
        (["name,group", '"a/1,x'], "groups.csv:2: expected a CSV line"),
        (["name,group", "../1,x"], "groups.csv:2: expected an image's path"),
        (["name,group", f"a/1,{ACROSS}"], "groups.csv:2: expected another name of a group"),
    ],
)
def test_files_that_are_malformed_are_refused(lines, message, tmp_path):
    write_lists(tmp_path, {"groups.csv": lines})
    with pytest.raises(InputError, match=message):
        read_groups(tmp_path / "groups.csv")


def test_quoted_names_of_groups_may_have_a_comma(tmp_path):
    assert grouping(tmp_path, ['a/1,"old, grey"']).groups == {"a/1": "old, grey"}


def test_a_misspelt_name_is_found_before_images_are_embedded(tiny_data, tmp_path):
    grouping(tmp_path, ["person6,x", "persn7,x"])
    options = evaluate.Evaluate(
        tmp_path / "no-such-run",
        protocol="folder",
        dataset="tiny",
        data_dir=tiny_data,
        group_by=tmp_path / "groups.csv",
    )
    with pytest.raises(InputError, match=r"found 'persn7' .*nearest name is 'pers"):
        evaluate.plan(options)


def test_groups_by_command(named, tmp_path, capsys):
    grouping(tmp_path, by_parity())
    np.savez(tmp_path / "f.npz", names=np.array(named.names), features=named.features)
    command = [str(tmp_path / "f.npz"), "--protocol", "folder", "--bootstrap", "0"]
    groups = ["--group-by", str(tmp_path / "groups.csv")]
    evaluate.main([*command, *groups, "--out", str(tmp_path / "out")])
    shown = capsys.readouterr().out
    assert "Identity folders: groups\n" in shown
    assert "Identity folders: groups at common thresholds" in shown
    assert ACROSS in shown
    record = json.loads((tmp_path / "out/evaluation.json").read_text())
    assert list(record["protocols"]["folder"]["groups"]) == ["old", "young", ACROSS]
    assert any(name.endswith("groups.csv") for name in record["settings"]["files"])
    with pytest.raises(InputError, match="--group-by: expected one of the protocols that take it"):
        evaluate.plan(
            evaluate.Evaluate(
                tmp_path / "f.npz", protocol="halves", group_by=tmp_path / "groups.csv"
            )
        )
    with pytest.raises(InputError, match="gone"):
        evaluate.plan(
            evaluate.Evaluate(tmp_path / "f.npz", protocol="folder", group_by=tmp_path / "gone.csv")
        )
