"""Protocol files: hand-written ones with known content, one fault at a time, and the real ones."""

import io
import re
import zipfile

import numpy as np
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperface.errors import InputError
from hyperface.protocols._agedb import read_agedb
from hyperface.protocols._blufr import read_blufr
from hyperface.protocols._matfile import read_mat
from hyperface.protocols.cfp import read_cfp
from hyperface.protocols.ijb import (
    Templates,
    read_ijb_faces,
    read_ijb_landmarks,
    read_ijb_pairs,
    read_ijb_templates,
)
from hyperface.protocols.lfw import read_lfw_pairs
from hyperface.protocols.megaface import (
    read_devkit_feature,
    read_megaface_list,
    read_megaface_noises,
    write_devkit_feature,
)
from hyperface.protocols.pair_list import PairList
from hyperface.protocols.pairs import read_pairs
from hyperface.protocols.video import read_ytf_splits

LFW = "2\t2\nAnn\t1\t2\nBob\t1\t3\nAnn\t1\tBob\t1\nBob\t2\tEve\t1\n" + (
    "Cy\t1\t2\nCy\t1\t3\nCy\t1\tDee\t4\nDee\t1\tEve\t2\n"
)
VIEW1 = "1\nAnn\t1\t2\nAnn\t1\tBob\t12\n"
YTF = "1, 1, Ann/0, Ann/1, 1\n1, 2, Ann/0, Bob/1, 0\n2, 1, Eve/2, Eve/1, 1\n2, 2, Bob/0, Eve/1, 0\n"
PLAIN = "a/1.jpg a/2.jpg 1\nb/1.jpg c/1.jpg 0\nd/1.jpg d/2.jpg 1\na/1.jpg c/1.jpg 0\n"
CSV = "first,second,same,fold\na 1.jpg,a 2.jpg,1,0\na 1.jpg,b.jpg,0,0\nc.jpg,d.jpg,0,1\n"
CALFW = "A_1.jpg 1\nA_2.jpg 1\nB_1.jpg 2\nB_2.jpg 2\nA_1.jpg 0\nB_1.jpg 0\nA_2.jpg 0\nB_2.jpg 0\n"
FACES = "1.jpg 7 3\n2.jpg 7 3\n3.jpg 9 4\n"
LABELS = "7 9 1\n7 11 0\n9 11 0\n"
POINTS = "1.jpg 30.5 51 65 51 48 71 33 92 62 92.25 0.75\n"
TEMPLATES = (
    "TEMPLATE_ID,SUBJECT_ID,FILE,MEDIA_ID,SIGHTING_ID,FACE_X,FACE_Y,FACE_WIDTH,FACE_HEIGHT\n"
    "7,70,img/1.jpg,3,1,10,20.5,30,40\n7,70,frames/2.png,4,2,,,,\n9,90,img/3.jpg,5,3,1,2,3,4\n"
)
COMPARISONS = "7,9\n9,11\n"
NOISES = "# from the authors\n3\tid/1/a.jpg\nb_2.png\n"

READERS = {
    "lfw_pairs": (read_lfw_pairs, LFW),
    "lfw_view1": (read_lfw_pairs, VIEW1),
    "ytf": (lambda path: read_ytf_splits(path, folds=2, size=1), YTF),
    "plain": (lambda path: read_pairs(path, 2), PLAIN),
    "csv": (read_pairs, CSV),
    "calfw": (lambda path: read_pairs(path, 2), CALFW),
    "ijb_faces": (read_ijb_faces, FACES),
    "ijb_labels": (read_ijb_pairs, LABELS),
    "ijb_comparisons": (read_ijb_pairs, COMPARISONS),
    "ijb_landmarks": (read_ijb_landmarks, POINTS),
    "ijb_templates": (read_ijb_templates, TEMPLATES),
    "megaface_noises": (read_megaface_noises, NOISES),
}


@pytest.fixture
def written(tmp_path):
    """Writes text or bytes and gives the path."""

    def write(content, name="list.txt"):
        data = content.encode() if isinstance(content, str) else content
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    return write


def read(name, path):
    return READERS[name][0](path)


def refusal(reader, path, **options):
    """The message of the reader's error; None where it reads the file."""
    try:
        reader(path, **options)
    except InputError as error:
        return str(error)


# What the files say.


def test_lfw_pairs(written):
    pairs = read_lfw_pairs(written(LFW))
    assert pairs.first[:3] == ["Ann/Ann_0001.jpg", "Bob/Bob_0001.jpg", "Ann/Ann_0001.jpg"]
    assert pairs.second[:3] == ["Ann/Ann_0002.jpg", "Bob/Bob_0003.jpg", "Bob/Bob_0001.jpg"]
    np.testing.assert_array_equal(pairs.same, [True, True, False, False] * 2)
    np.testing.assert_array_equal(pairs.fold, [0, 0, 0, 0, 1, 1, 1, 1])
    assert pairs.same.dtype == bool
    assert pairs.names()[:2] == ["Ann/Ann_0001.jpg", "Ann/Ann_0002.jpg"]
    assert len(pairs.names()) == 12


def test_lfw_view_1_has_one_fold_and_the_template_names_the_images(written):
    pairs = read_lfw_pairs(written(VIEW1), template="{name}_{number:06}.png")
    assert pairs.second == ["Ann_000002.png", "Bob_000012.png"]
    np.testing.assert_array_equal(pairs.same, [True, False])
    np.testing.assert_array_equal(pairs.fold, [0, 0])


@pytest.mark.parametrize("template", ["{name}.jpg", "{name", "{who}_{number}", "{name.x}{number}"])
def test_a_template_needs_name_and_number(written, template):
    with pytest.raises(InputError, match=r"template: expected one like .* found '.*"):
        read_lfw_pairs(written(LFW), template)


@pytest.mark.parametrize("header", ["", "split number, pair number, first, second, is same\n"])
def test_ytf_with_and_without_its_header(written, header):
    pairs = read_ytf_splits(written(header + YTF), folds=2, size=1)
    assert pairs.first == ["Ann/0", "Ann/0", "Eve/2", "Bob/0"]
    np.testing.assert_array_equal(pairs.same, [True, False, True, False])
    np.testing.assert_array_equal(pairs.fold, [0, 0, 1, 1])


def test_folds_of_a_plain_list_are_blocks_of_each_kind(written):
    """They are those of the published lists; pairs dealt in turn would be other folds."""
    lines = "".join(f"a/{i}.jpg b/{i}.jpg {int(i < 4)}\n" for i in range(8))
    pairs = read_pairs(written(lines), folds=2)
    np.testing.assert_array_equal(pairs.fold, [0, 0, 1, 1, 0, 0, 1, 1])


@pytest.mark.parametrize(
    "text",
    [
        PLAIN,
        PLAIN.replace(" ", "\t"),
        PLAIN.replace(" ", ", "),
        PLAIN.replace(" 0\n", " -1\n"),
        re.sub(r"(.*) (\d)\n", r"\2 \1\n", PLAIN),
        "first,second,same\n" + PLAIN.replace(" ", ","),
    ],
)
def test_plain_lists_in_each_form(written, text):
    pairs = read_pairs(written(text), folds=2)
    assert pairs.first == ["a/1.jpg", "b/1.jpg", "d/1.jpg", "a/1.jpg"]
    assert pairs.second == ["a/2.jpg", "c/1.jpg", "d/2.jpg", "c/1.jpg"]
    np.testing.assert_array_equal(pairs.same, [True, False, True, False])
    np.testing.assert_array_equal(pairs.fold, [0, 0, 1, 1])


def test_folds_of_a_list_with_all_same_pairs_first_have_both_kinds(written):
    lines = PLAIN.splitlines()
    text = "\n".join([lines[0], lines[2], lines[1], lines[3]])
    np.testing.assert_array_equal(read_pairs(written(text), 2).fold, [0, 1, 0, 1])
    np.testing.assert_array_equal(read_pairs(written(text), 1).fold, [0, 0, 0, 0])


def test_the_csv_form_keeps_its_folds_and_quoted_names(written):
    pairs = read_pairs(written(CSV.replace("a 2.jpg", '"a,2.jpg"')))
    assert pairs.second == ["a,2.jpg", "b.jpg", "d.jpg"]
    np.testing.assert_array_equal(pairs.fold, [0, 0, 1])


def test_csv_lines_may_have_blanks_around_their_fields(written):
    pairs = read_pairs(written(CSV.replace(",", " , ").replace("a 2.jpg ", '"a 2.jpg"')))
    np.testing.assert_equal(pairs, read_pairs(written(CSV)))
    spaced = TEMPLATES.replace("70,img/1.jpg,3", '70, "img/1.jpg", 3')
    np.testing.assert_equal(
        read_ijb_templates(written(spaced)), read_ijb_templates(written(TEMPLATES))
    )


def test_calfw_has_its_folds_in_the_labels_of_same_pairs(written):
    lines = CALFW.splitlines(keepends=True)
    swapped = "".join(lines[2:4] + lines[:2] + lines[4:])
    pairs = read_pairs(written(swapped), folds=2)
    assert pairs.first == ["B_1.jpg", "A_1.jpg", "A_1.jpg", "A_2.jpg"]
    np.testing.assert_array_equal(pairs.same, [True, True, False, False])
    np.testing.assert_array_equal(pairs.fold, [1, 0, 0, 1])


def test_cplfw_has_blocks_for_folds(written):
    pairs = read_pairs(written(CALFW.replace(" 2\n", " 1\n")), folds=2)
    np.testing.assert_array_equal(pairs.same, [True, True, False, False])
    np.testing.assert_array_equal(pairs.fold, [0, 1, 0, 1])


def test_ijb_templates(written):
    templates = read_ijb_templates(written(TEMPLATES))
    np.testing.assert_array_equal(templates.template, [7, 7, 9])
    np.testing.assert_array_equal(templates.subject, [70, 70, 90])
    np.testing.assert_array_equal(templates.media, [3, 4, 5])
    assert templates.names == ["img/1.jpg", "frames/2.png", "img/3.jpg"]
    np.testing.assert_array_equal(templates.box[0], [10, 20.5, 30, 40])
    assert np.isnan(templates.box[1]).all()


def test_cs3_templates_have_sightings_for_media_and_no_box(written):
    text = "TEMPLATE_ID,SUBJECT_ID,FILENAME,SIGHTING_ID\n7,70,img/1.jpg,33\n"
    templates = read_ijb_templates(written(text))
    assert templates.media.tolist() == [33]
    assert templates.names == ["img/1.jpg"]
    assert templates.box is None


def test_ijb_faces_and_landmarks(written):
    faces = read_ijb_faces(written(FACES))
    assert faces.template.tolist() == [7, 7, 9]
    assert faces.media.tolist() == [3, 3, 4]
    assert faces.subject is None
    points = read_ijb_landmarks(written(POINTS))
    assert points.names == ["1.jpg"]
    np.testing.assert_array_equal(points.points[0, [0, 4]], [[30.5, 51], [62, 92.25]])
    assert points.score.tolist() == [0.75]


def test_ijb_pairs_take_labels_from_the_file_or_from_the_people(written):
    labelled = read_ijb_pairs(written(LABELS))
    assert labelled.first.tolist() == [7, 7, 9]
    assert labelled.second.tolist() == [9, 11, 11]
    assert labelled.same.tolist() == [True, False, False]
    path = written("TEMPLATE1,TEMPLATE2\n" + COMPARISONS, "comparisons.csv")
    assert read_ijb_pairs(path).same is None
    people = Templates(
        np.array([11, 7, 9, 9]), np.array([2, 1, 2, 2]), np.zeros(4, int), ["a", "b", "c", "d"]
    )
    assert read_ijb_pairs(path, people).same.tolist() == [False, True]
    with pytest.raises(InputError, match=r"list.txt:1: expected the label that the templates'"):
        read_ijb_pairs(written(LABELS), people)
    few = people._replace(template=np.array([7, 9, 9, 9]), subject=None)
    with pytest.raises(InputError, match=r"comparisons.csv:3: expected templates that are known"):
        read_ijb_pairs(path, few)


def test_ijb_pairs_in_blocks_are_those_in_one(written, monkeypatch, rng):
    ids = rng.permutation(4000)[:2000].reshape(1000, 2)
    text = "".join(f"{a} {b} {a % 2}\n" for a, b in ids)
    whole = read_ijb_pairs(written(text))
    np.testing.assert_array_equal(whole.first, ids[:, 0])
    monkeypatch.setattr("hyperface.protocols._ijb_pairs.BLOCK_BYTES", 64)
    np.testing.assert_equal(read_ijb_pairs(written(text)), whole)
    np.testing.assert_equal(read_ijb_pairs(written(text.replace(" ", "\t"))), whole)
    lines = text.splitlines(keepends=True)
    # Each block is one line, so that each line is the last of a block.
    monkeypatch.setattr("hyperface.protocols._ijb_pairs.BLOCK_BYTES", 1)
    np.testing.assert_equal(read_ijb_pairs(written(text)), whole)
    for bad in ("\n", " \t\n", "  \n\n"):
        with pytest.raises(InputError, match=r"list.txt:701: expected no blank line"):
            read_ijb_pairs(written("".join([*lines[:700], bad, *lines[700:]])))
    monkeypatch.setattr("hyperface.protocols._ijb_pairs.BLOCK_BYTES", 64)
    for bad in (
        "\n",
        " \t\n",
        " 1 0\n" * 3,
        "1 2\n",
        "1 2 3\n",
        "1 2 0 0\n",
        "1 -2 0\n",
        "1 2 x\n",
        "5 5 1\n",
    ):
        with pytest.raises(InputError, match=r"list.txt:701: expected"):
            read_ijb_pairs(written("".join([*lines[:700], bad, *lines[700:]])))
    with pytest.raises(InputError, match=r"list.txt:1001: expected a pair that no earlier"):
        read_ijb_pairs(written(text + f"{ids[3, 1]} {ids[3, 0]} 0"))
    assert read_ijb_pairs(written(text + lines[3]), repeats=True).first.size == 1001


def test_megaface_lists(written):
    images = read_megaface_list(written('{"id": ["Ann", "Bob"],\n "path": ["a/1.jpg", "b.jpg"]}'))
    assert images == (["a/1.jpg", "b.jpg"], ["Ann", "Bob"], "list.txt")
    assert read_megaface_list(written('{"path": ["578/5@N0/2_0.jpg"]}')).ids is None
    assert read_megaface_noises(written(NOISES)) == {"id/1/a.jpg", "b_2.png"}


def test_feature_files(tmp_path, rng):
    path, feature = tmp_path / "a.bin", rng.normal(size=5)
    write_devkit_feature(path, feature)
    data = path.read_bytes()
    assert np.frombuffer(data[:16], "<i4").tolist() == [5, 1, 4, 5]
    np.testing.assert_array_equal(np.frombuffer(data[16:], "<f4"), feature.astype(np.float32))
    np.testing.assert_array_equal(read_devkit_feature(path), feature.astype(np.float32))
    for bad in ([], [[1.0]], [1.0, np.nan], [1e39]):
        with pytest.raises(ValueError, match=r"expected a finite vector, found"):
            write_devkit_feature(path, np.array(bad))
    assert path.read_bytes() == data


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda d: d[:10], "a header of 16 bytes, found 10"),
        (lambda d: d[:-1], "28 bytes for 3 rows, found 27"),
        (lambda d: d + b"\0", "28 bytes for 3 rows, found 29"),
        (lambda d: b"\xff\xff\xff\x7f" + d[4:], "rows, found 28"),
        (lambda d: b"\0\0\0\0" + d[4:16], r"header rows, 1, 4, 5, found \[0,"),
        (lambda d: d[:4] + b"\2\0\0\0" + d[8:], r"found \[3, 2, 4, 5\]"),
        (lambda d: d[:8] + b"\x08\0\0\0" + d[12:], r"found \[3, 1, 8, 5\]"),
        (lambda d: d[:12] + b"\6\0\0\0" + d[16:], r"found \[3, 1, 4, 6\]"),
        (lambda d: d[:20] + b"\0\0\xc0\x7f" + d[24:], "finite numbers, found nan in 1"),
    ],
)
def test_a_broken_feature_file_is_refused(tmp_path, change, match):
    path = tmp_path / "a.bin"
    write_devkit_feature(path, np.arange(3.0))
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(InputError, match=rf"a.bin: expected .*{match}"):
        read_devkit_feature(path)


# One fault at a time.


def replaced(text, number, line):
    lines = text.splitlines()
    lines[number - 1] = line
    return "\n".join(lines)


FAULTS = [
    ("lfw_pairs", replaced(LFW, 1, "2 2 2"), 1, "the numbers of folds and of same pairs"),
    ("lfw_pairs", replaced(LFW, 1, "2 x"), 1, "same pairs a fold, 1 or more, found 'x'"),
    ("lfw_pairs", replaced(LFW, 1, "0 2"), 1, "folds, 1 or more, found '0'"),
    ("lfw_pairs", replaced(LFW, 1, "3 2"), 10, r"12 pairs .* found the end of the file after 8"),
    ("lfw_pairs", replaced(LFW, 1, "900000000 900000000"), 10, "found the end of the file after 8"),
    ("lfw_pairs", replaced(LFW, 1, "1 2"), 6, r"the end of the file after 4 pairs .*'Cy\\t1\\t2'"),
    ("lfw_pairs", replaced(LFW, 3, "Bob 1 Cy 3"), 3, "a same pair, name number number"),
    ("lfw_pairs", replaced(LFW, 4, "Bob 1 3"), 4, "a different pair, name number name number"),
    ("lfw_pairs", replaced(LFW, 4, "Bob 1 Bob 3"), 4, "two people, found 'Bob' twice"),
    ("lfw_pairs", replaced(LFW, 3, "Bob 1 1"), 3, "two images, found 'Bob/Bob_0001.jpg' twice"),
    ("lfw_pairs", replaced(LFW, 3, "Bob 0 1"), 3, "number of an image, 1 or more, found '0'"),
    ("lfw_pairs", replaced(LFW, 3, "Bob ٣ 1"), 3, "number of an image, 1 or more, found '٣'"),
    ("lfw_pairs", replaced(LFW, 3, "Bob 1234567890 1"), 3, "number of an image, 1 or more"),
    ("lfw_pairs", replaced(LFW, 3, "Ann 2 1"), 3, "a new pair, found the pair of line 2 again"),
    ("lfw_pairs", replaced(LFW, 7, "Ann 2 1"), 7, "a new pair, found the pair of line 2 again"),
    ("lfw_pairs", replaced(LFW, 3, "../x 1 3"), 3, "a person's name, found '../x'"),
    ("lfw_pairs", replaced(LFW, 3, ".. 1 3"), 3, "path below the data set's folder"),
    ("lfw_view1", "3\n", 2, "6 pairs .* found the end of the file after 0"),
    ("ytf", replaced(YTF, 2, "1, 2, Ann/0, Bob/1"), 2, "fold, number, video, video, same"),
    ("ytf", replaced(YTF, 2, "1, 3, Ann/0, Bob/1, 0"), 2, "pair 2 of fold 1, found 3 of 1"),
    ("ytf", replaced(YTF, 2, "1, 2, Ann/0, Bob/1, 2"), 2, "the same, 0 to 1, found '2'"),
    ("ytf", replaced(YTF, 2, "1, 2, Ann/0, Bob/1, 1"), 2, "one person in a pair marked 1"),
    ("ytf", replaced(YTF, 2, "1, 2, Ann/0, Ann/2, 0"), 2, "two people in a pair marked 0"),
    ("ytf", replaced(YTF, 2, "1, 2, Ann/0, Ann/2, 1"), 1, "1 same pairs in fold 1, found 2"),
    ("ytf", replaced(YTF, 4, "2, 2, Bob/1, Ann/0, 0"), 4, "a new pair, found the pair of line 2"),
    ("ytf", YTF[:-24], 4, "4 pairs of videos .* after 3"),
    ("ytf", YTF + "3, 1, Bob/0, Bob/1, 1", 5, "the end of the file after 4"),
    ("plain", replaced(PLAIN, 2, "b/1.jpg c/1.jpg 2"), 2, "a pair, path path 0|1"),
    ("plain", replaced(PLAIN, 2, "0 b/1.jpg c/1.jpg"), 2, "a pair, path path 0|1"),
    ("plain", replaced(PLAIN, 2, "b/1.jpg c/1.jpg"), 2, "a pair, path path 0|1"),
    ("plain", replaced(PLAIN, 2, "b/1.jpg c/1.jpg 0 0"), 2, "a pair, path path 0|1"),
    ("plain", replaced(PLAIN, 1, "what is this list"), 1, "a pair, 0|1 path path"),
    ("plain", replaced(PLAIN, 2, "/b/1.jpg c/1.jpg 0"), 2, "found '/b/1.jpg'"),
    ("plain", replaced(PLAIN, 2, "b/1.jpg ../c/1.jpg 0"), 2, "found '../c/1.jpg'"),
    ("plain", replaced(PLAIN, 2, "b/1.jpg c\\1.jpg 0"), 2, "path below the data set's folder"),
    ("plain", replaced(PLAIN, 2, "b/1.jpg C:/1.jpg 0"), 2, "path below the data set's folder"),
    ("plain", replaced(PLAIN, 2, "b/1.jpg b/1.jpg 0"), 2, "two images, found 'b/1.jpg' twice"),
    ("plain", replaced(PLAIN, 4, "c/1.jpg b/1.jpg 0"), 4, "found the pair of line 2 again"),
    ("csv", replaced(CSV, 3, "a 1.jpg,b.jpg,0"), 3, "first,second,same,fold, with same 0 or 1"),
    ("csv", replaced(CSV, 3, "a 1.jpg,b.jpg,no,0"), 3, "first,second,same,fold, with same 0 or 1"),
    ("csv", replaced(CSV, 3, "a 1.jpg,b.jpg,0,x"), 3, "the fold, 0 or more, found 'x'"),
    ("csv", replaced(CSV, 3, 'a 1.jpg,"b.jpg,0,0'), 3, "a CSV line"),
    ("csv", "first,second,same\n", 2, "pairs, found the end of the file"),
    ("calfw", CALFW.rstrip("\n").rpartition("\n")[0], 8, "two lines a pair, found the end"),
    ("calfw", replaced(CALFW, 4, "B_2.jpg 1"), 4, "the label 2 of the line before, found 1"),
    ("calfw", replaced(CALFW, 4, "B_2.jpg"), 4, "a path and a label"),
    ("calfw", CALFW.replace(" 2\n", " 3\n"), 4, "the fold of a same pair, 0 to 2, found '3'"),
    ("ijb_faces", replaced(FACES, 2, "2.jpg 7"), 2, "an image, its template and its media"),
    ("ijb_faces", replaced(FACES, 2, "2.jpg 7 -3"), 2, "an id, 0 or more, found '-3'"),
    ("ijb_labels", replaced(LABELS, 2, "7 11 2"), 2, "0 or 1 for the person, found '7 11 2'"),
    ("ijb_labels", replaced(LABELS, 2, "7 7 1"), 2, "two templates, found '7 7 1'"),
    ("ijb_labels", replaced(LABELS, 2, "7 eleven 1"), 2, "an id, 0 or more, found 'eleven'"),
    ("ijb_labels", replaced(LABELS, 3, "9 7 1"), 3, "a pair that no earlier line has"),
    ("ijb_comparisons", replaced(COMPARISONS, 2, "9,11,12"), 2, "two templates, found '9,11,12'"),
    ("ijb_comparisons", "a,b\n", 2, "pairs of templates, found the end of the file"),
    ("ijb_landmarks", POINTS.replace(" 0.75", ""), 1, "an image, ten coordinates and a score"),
    ("ijb_landmarks", POINTS.replace("0.75", "1.5"), 1, r"a score in \[0, 1\], found 1.5"),
    ("ijb_landmarks", POINTS.replace("30.5", "nan"), 1, "a coordinate or score, found 'nan'"),
    ("ijb_landmarks", POINTS.replace("30.5", "1e999"), 1, "a coordinate or score"),
    ("ijb_templates", TEMPLATES.replace("FILE", "NAME", 1), 1, "the column FILE or FILENAME"),
    ("ijb_templates", TEMPLATES.splitlines()[0], 2, "images, found the end of the file"),
    ("ijb_templates", replaced(TEMPLATES, 3, "7,71,a.jpg,4,2,,,,"), 3, "person 70 of template 7"),
    ("ijb_templates", replaced(TEMPLATES, 3, "7,70,a.jpg,4,2"), 3, "9 fields, found 5"),
    ("ijb_templates", replaced(TEMPLATES, 3, "7,70,,4,2,,,,"), 3, "path below the data set's"),
    ("ijb_templates", replaced(TEMPLATES, 3, "7,70,a.jpg,4,2,1,2,0,4"), 3, "FACE_WIDTH above 0"),
    ("ijb_templates", replaced(TEMPLATES, 3, "7,70,a.jpg,4,2,1,b,3,4"), 3, "FACE_Y in pixels"),
    ("megaface_noises", "a\tb.jpg", 1, "a number before the tab"),
    ("megaface_noises", "1\ta\tb.jpg", 1, "a name, or a number and a name"),
]


@pytest.mark.parametrize(("name", "text", "line", "match"), FAULTS)
def test_a_fault_is_refused_with_its_line(written, name, text, line, match):
    path = written(text)
    with pytest.raises(InputError, match=rf"^{re.escape(str(path))}:{line}: expected .*{match}"):
        read(name, path)


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize(
    ("change", "line", "match"),
    [
        (lambda data: b"", 1, "lines of text, found an empty file"),
        (lambda data: b" \n\r\n\n", 1, "lines of text, found an empty file"),
        (lambda data: b"\xef\xbb\xbf" + data, 1, "without a byte-order mark, found one"),
        (lambda data: data + b"\n\nx 1", None, "no blank line before the last line"),
        (lambda data: b"\n" + data, 1, "no blank line before the last line"),
        (lambda data: data.replace(b"\n", b"\xff\n", 1), 1, "UTF-8 text, found the byte 0xff"),
        (lambda data: data.rstrip() + b"\xe9", None, "UTF-8 text, found the byte 0xe9"),
        (lambda data: b"\0" + data, 1, r"text, found the control character '\\x00'"),
        (lambda data: data.replace(b"\n", b"\r"), 1, r"text, found the control character '\\r'"),
    ],
)
def test_what_is_no_text_is_refused(written, name, change, line, match):
    data = change(READERS[name][1].encode())
    line = line or data.count(b"\n") - (data.endswith(b"x 1")) + (not data.endswith(b"x 1"))
    with pytest.raises(InputError, match=rf"list.txt:{line}: expected .*{match}"):
        read(name, written(data))


@pytest.mark.parametrize("name", READERS)
def test_windows_line_ends_and_blank_lines_at_the_end_change_nothing(written, name):
    text = READERS[name][1]
    expected = read(name, written(text))
    for same in (text.replace("\n", "\r\n"), text.rstrip(), text + "\n  \n\r\n"):
        np.testing.assert_equal(read(name, written(same)), expected)


@pytest.mark.parametrize("name", READERS)
def test_a_missing_file_or_a_folder_is_refused(tmp_path, name):
    with pytest.raises(InputError, match=r"none.txt: expected a file, found nothing"):
        read(name, tmp_path / "none.txt")
    with pytest.raises(InputError, match=r"expected a file, found a folder"):
        read(name, tmp_path)


@pytest.mark.parametrize("name", ["lfw_pairs", "lfw_view1", "ytf"])
def test_a_cut_file_is_refused_wherever_it_is_cut(written, name):
    text = READERS[name][1].rstrip()
    last = max(text.rfind("\t"), text.rfind(" ")) + 2
    for length in range(last):
        with pytest.raises(InputError, match=r"list.txt:\d+: expected"):
            read(name, written(text[:length]))


def test_a_list_of_other_folds_is_refused(written):
    match = r"list.txt: expected same pairs in 10 equal folds, found 2 pairs"
    with pytest.raises(InputError, match=match):
        read_pairs(written(PLAIN))
    with pytest.raises(InputError, match="expected same pairs in 0 equal folds"):
        read_pairs(written(PLAIN), 0)


def test_a_list_may_repeat_pairs_where_it_is_asked_for(written):
    pairs = read_pairs(written(PLAIN * 2), 2, repeats=True)
    assert len(pairs.first) == 8


@pytest.mark.parametrize("again", ["a/1.jpg a/2.jpg 0", "a/2.jpg a/1.jpg 0"])
@pytest.mark.parametrize("repeats", [True, False])
def test_a_pair_with_both_labels_is_refused(written, again, repeats):
    match = r"list.txt:5: expected a same pair, as in line 1, found a different pair"
    with pytest.raises(InputError, match=match):
        read_pairs(written(PLAIN + again), 2, repeats=repeats, equal=False)


@pytest.mark.parametrize("again", ["7 9 0", "9 7 0"])
def test_a_pair_of_templates_with_both_labels_is_refused(written, again):
    match = r"list.txt:5: expected the label that an earlier line gives this pair"
    with pytest.raises(InputError, match=match):
        read_ijb_pairs(written(LABELS + "9 7 1\n" + again), repeats=True)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ('{"path": ["a.jpg",\n "b.jpg"', "txt:2: expected JSON, found Expecting ',' delimiter"),
        ("", "txt:1: expected JSON"),
        ("[]", "an object with the list path, found a list"),
        ('{"id": ["a"]}', "the list path, found None"),
        ('{"path": []}', "the list path, found"),
        ('{"path": ["a.jpg", 3]}', "txt:path:1: expected text, found 3"),
        ('{"path": ["a.jpg", "../b.jpg"]}', "txt:path:1: expected an image's path"),
        ('{"path": ["a.jpg", "a.jpg"]}', "txt:path:1: expected each image once, found 'a.jpg' as"),
        ('{"path": ["a.jpg"], "id": ["x", "y"]}', "1 ids, one a path, found 2"),
        ('{"path": ["a.jpg"], "id": [7]}', "txt:id:0: expected text, found 7"),
        ("[" * 100_000, "expected lists of text"),
        ("9" * 5000, "expected lists of text"),
        (b'{"path": [\n"\xff"]}', "txt:2: expected UTF-8 text"),
    ],
)
def test_a_broken_image_list_is_refused(written, text, match):
    with pytest.raises(InputError, match=match):
        read_megaface_list(written(text))


def test_a_list_of_comments_alone_is_refused(written):
    with pytest.raises(InputError, match="expected names, found comments alone"):
        read_megaface_noises(written("# nothing\n"))


# CFP: a folder, or a zip file in place.


def cfp_files():
    """Two people with two frontal and two profile images each; a fold of one pair of each kind."""
    lists = {
        letter: "".join(
            f"{2 * person + image - 2} ../Data/Images/00{person}/{pose}/0{image}.jpg\n"
            for person in (1, 2)
            for image in (1, 2)
        )
        for letter, pose in (("F", "frontal"), ("P", "profile"))
    }
    files = {f"Protocol/Pair_list_{letter}.txt": text for letter, text in lists.items()}
    for kind, same, diff in (("FF", "1,2", "2,3"), ("FP", "1,2", "4,1")):
        files[f"Protocol/Split/{kind}/01/same.txt"] = same + "\n"
        files[f"Protocol/Split/{kind}/01/diff.txt"] = diff + "\n"
    return files


def written_cfp(root, files, kind):
    if kind == "zip":
        with zipfile.ZipFile(root / "cfp.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for name, text in files.items():
                archive.writestr(name, text)
        return root / "cfp.zip"
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root if kind == "above" else root / "Protocol"


@pytest.mark.parametrize("kind", ["zip", "folder", "above"])
def test_cfp(tmp_path, kind):
    pairs = read_cfp(written_cfp(tmp_path, cfp_files(), kind), folds=1, size=1)
    assert list(pairs) == ["FF", "FP"]
    assert pairs["FF"].first == ["001/frontal/01.jpg", "001/frontal/02.jpg"]
    assert pairs["FF"].second == ["001/frontal/02.jpg", "002/frontal/01.jpg"]
    assert pairs["FP"].first == ["001/frontal/01.jpg", "002/frontal/02.jpg"]
    assert pairs["FP"].second == ["001/profile/02.jpg", "001/profile/01.jpg"]
    np.testing.assert_array_equal(pairs["FP"].same, [True, False])


SAME = "Protocol/Split/FF/01/same.txt"
FRONTAL = "Protocol/Pair_list_F.txt"


@pytest.mark.parametrize("kind", ["zip", "folder"])
@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        (SAME, "1,2\n2,1\n", "same.txt:2: expected the end of the file after 1 pairs"),
        (SAME, "", "same.txt:1: expected lines of text"),
        (SAME, "1\n", "same.txt:1: expected two numbers with a comma between"),
        (SAME, "0,1\n", "same.txt:1: expected the number of an image, 1 to 4, found '0'"),
        (SAME, "1,5\n", "same.txt:1: expected the number of an image, 1 to 4, found '5'"),
        (SAME, "1,3\n", "same.txt:1: expected a pair of one person, found 001/frontal/01.jpg and"),
        (SAME, "1,1\n", "same.txt:1: expected two images"),
        (SAME.replace("same", "diff"), "1,2\n", "diff.txt:1: expected a pair of two people"),
        (FRONTAL, "2 ../Data/Images/001/frontal/01.jpg", "F.txt:1: expected 1 and the path of"),
        (FRONTAL, "1 ../Data/Images/001/profile/01.jpg", "a frontal image below ../Data/Images"),
        (FRONTAL, "1 ../../etc/passwd", "F.txt:1: expected 1 and the path"),
        (SAME, None, "same.txt: expected .*found no"),
        (FRONTAL, None, "Pair_list_F.txt.* found (no|0)"),
    ],
)
def test_a_broken_cfp_protocol_is_refused(tmp_path, kind, name, text, match):
    files = cfp_files() | {name: text}
    path = written_cfp(tmp_path, {n: t for n, t in files.items() if t is not None}, kind)
    with pytest.raises(InputError, match=match):
        read_cfp(path, folds=1, size=1)


def test_cfp_accepts_a_pair_in_each_order_but_not_again(tmp_path):
    files = cfp_files() | {SAME: "1,2\n2,1\n", SAME.replace("same", "diff"): "1,3\n2,3\n"}
    files |= {n.replace("FF", "FP"): t for n, t in files.items() if "FF" in n}
    assert len(read_cfp(written_cfp(tmp_path, files, "zip"), folds=1, size=2)["FF"].first) == 4
    again = files | {SAME: "1,2\n1,2\n"}
    with pytest.raises(
        InputError, match=r"same.txt:2: expected a new pair, found the pair of line 1"
    ):
        read_cfp(written_cfp(tmp_path, again, "zip"), folds=1, size=2)


def test_a_broken_or_swollen_zip_file_is_refused(tmp_path):
    path = written_cfp(tmp_path, cfp_files(), "zip")
    data = path.read_bytes()
    for length in range(0, len(data), 64):
        path.write_bytes(data[:length])
        with pytest.raises(InputError, match=r"expected a whole zip archive at .*cfp.zip, found"):
            read_cfp(path, folds=1, size=1)
    path = written_cfp(tmp_path, cfp_files() | {SAME: "1,2\n" * 2**21}, "zip")
    with pytest.raises(
        InputError, match=r"same.txt: expected at most 4,194,304 bytes, found 8,388,608"
    ):
        read_cfp(path, folds=1, size=1)


def test_a_changed_byte_of_a_zip_file_is_refused_or_harmless(tmp_path):
    path = written_cfp(tmp_path, cfp_files(), "zip")
    data, expected = path.read_bytes(), read_cfp(path, folds=1, size=1)
    for at in range(0, len(data), 7):
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x41]) + data[at + 1 :])
        if refusal(read_cfp, path, folds=1, size=1) is None:
            np.testing.assert_equal(read_cfp(path, folds=1, size=1), expected)


# MATLAB files: BLUFR and AgeDB.


def cells(values, shape=None):
    array = np.empty(len(values), object)
    array[:] = values
    return array.reshape(shape or (-1, 1))


def column(*values):
    return np.array(values, np.uint16)[:, None]


def blufr_variables():
    """Six images of four people, one trial: person 1 trains, 2 and 3 are in the gallery."""
    people = ["Ann", "Ann", "Bob", "Bob", "Cy", "Dee"]
    names = [f"{name}_{1 + (i % 2 if i < 4 else 0):04}.jpg" for i, name in enumerate(people)]
    return {
        "imageList": cells(names),
        "labels": column(1, 1, 2, 2, 3, 4),
        "trainIndex": cells([column(1, 2)]),
        "testIndex": cells([column(3, 4, 5, 6)]),
        "galIndex": cells([column(3, 5)]),
        "probIndex": cells([column(4, 6)]),
    }


def mat_bytes(variables, compress):
    file = io.BytesIO()
    scipy.io.savemat(file, variables, do_compression=compress)
    return file.getvalue()


@pytest.mark.parametrize("compress", [False, True])
def test_blufr(written, compress):
    config = read_blufr(written(mat_bytes(blufr_variables(), compress)))
    assert config.images[1:4] == ["Ann/Ann_0002.jpg", "Bob/Bob_0001.jpg", "Bob/Bob_0002.jpg"]
    assert config.labels.tolist() == [1, 1, 2, 2, 3, 4]
    (trial,) = config.trials
    assert [part.tolist() for part in trial] == [[0, 1], [2, 3, 4, 5], [2, 4], [3, 5]]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"labels": None}, "expected the variable labels, found none"),
        ({"labels": column(1, 1, 2)}, "expected 6 labels, found 3"),
        ({"labels": np.array([[1.5]])}, "whole numbers from 1 in labels"),
        ({"imageList": cells(["Ann"] * 6)}, "imageList:1: expected a name as Aaron_Eckhart_0001"),
        ({"imageList": cells(["A_0001.jpg"] * 6)}, "distinct names in imageList"),
        ({"imageList": cells(["A_0000.jpg"] * 6)}, "number of an image, 1 or more"),
        ({"imageList": column(1)}, "cells of names in imageList"),
        ({"trainIndex": cells([column(0, 2)])}, r"whole numbers from 1 in trainIndex\{1\}"),
        ({"trainIndex": cells([column(1, 7)])}, r"1 to 6 in trainIndex\{1\}, found 7"),
        ({"trainIndex": cells([column(1, 1)])}, r"distinct indices in trainIndex\{1\}"),
        ({"trainIndex": cells([column(1), column(2)])}, r"as many sets .* found \[2, 1, 1, 1\]"),
        ({"trainIndex": cells([column(1, 3)])}, "trial 1: expected other people .* 1 in both"),
        ({"galIndex": cells([column(3)])}, "gallery and probes to be the 4 test .* found 3 images"),
        ({"galIndex": cells([column(3, 1)])}, "found 4 images, 1 of them others"),
        (
            {"galIndex": cells([column(3, 4, 5)]), "probIndex": cells([column(6)])},
            "trial 1: expected one gallery image a person",
        ),
        ({"labels": "text"}, "whole numbers from 1 in labels"),
    ],
)
def test_a_broken_blufr_configuration_is_refused(written, change, match):
    variables = {n: v for n, v in (blufr_variables() | change).items() if v is not None}
    with pytest.raises(InputError, match=match):
        read_blufr(written(mat_bytes(variables, compress=False), "config.mat"))


@pytest.mark.parametrize("compress", [False, True])
def test_mat_files_are_read_as_scipy_reads_them(written, compress):
    variables = {
        "text": "größe",
        "cells": cells(["a", column(3, 4), cells(["deep"])], (1, 3)),
        "numbers": np.arange(24.0).reshape(2, 3, 4),
        "empty": np.zeros((0, 3)),
        "one": {"name": "x", "age": 3},
        **{kind: np.array([[1, 2], [3, 4]], kind) for kind in ("i1", "u2", "i8", "f4", "f8")},
    }
    data = mat_bytes(variables, compress)
    theirs = scipy.io.loadmat(io.BytesIO(data))
    ours = read_mat(written(data))
    assert ours["text"] == theirs["text"].item()
    assert ours["cells"].shape == theirs["cells"].shape
    assert ours["cells"][0, 0] == "a"
    np.testing.assert_array_equal(ours["cells"][0, 1], theirs["cells"][0, 1])
    assert ours["cells"][0, 2].item() == "deep"
    assert ours["one"]["name"] == theirs["one"]["name"].item().item()
    assert ours["one"]["age"].item() == 3
    for name in ("numbers", "empty", "i1", "u2", "i8", "f4", "f8"):
        np.testing.assert_array_equal(ours[name], theirs[name])


@pytest.mark.parametrize("compress", [False, True])
def test_a_damaged_mat_file_is_refused_or_harmless(written, compress):
    """scipy.io.loadmat ends the process at many of these changes."""
    image = [{"n": name} for name in ("A_1", "A_2")]
    fold = {"pairs": cells(image, (2, 1)), "labels": [[1]]}
    data = mat_bytes({"splits": cells([fold])}, compress)
    changes = [(at, value) for at in range(len(data)) for value in (0xFF, data[at] ^ 1)]
    messages = [
        refusal(read_agedb, written(data[:at] + bytes([value]) + data[at + 1 :]))
        for at, value in changes
    ]
    assert sum(message is not None for message in messages) > len(changes) / 3
    for length in range(0, len(data) - 8, 32):
        assert refusal(read_agedb, written(data[:length]))
    with pytest.raises(InputError, match=r"found an element of \d+ bytes where \d+ are left"):
        read_mat(written(data[:-8]))


def test_a_swollen_or_too_deep_mat_file_is_refused(written, monkeypatch):
    monkeypatch.setattr("hyperface.protocols._matfile.LARGEST_VARIABLE", 1000)
    with pytest.raises(InputError, match="cut short or above 1000 bytes"):
        read_mat(written(mat_bytes({"x": np.zeros(1000)}, compress=True)))
    nest = "x"
    for _ in range(12):
        nest = cells([nest])
    with pytest.raises(InputError, match="found more than 8 cells inside each other"):
        read_mat(written(mat_bytes({"x": nest}, compress=False)))
    with pytest.raises(InputError, match=r"found one that starts with b'MATLAB 7.3'"):
        read_mat(written(b"MATLAB 7.3 MAT-file".ljust(126) + b"IM"))


def agedb_variables():
    """Two folds of two pairs, in the form of AgeDB's own file."""

    def image(name):
        return {"name": name, "age": 30}

    folds = [(["A_1", "A_1"], ["A_2", "B_1"]), (["C_1", "C_1"], ["C_2", "D_1"])]
    splits = [
        {"pairs": cells([image(n) for side in fold for n in side], (2, 2)), "labels": [[1, -1]]}
        for fold in folds
    ]
    return {"splits": cells(splits)}


def test_agedb(written):
    # What a user names by --pairs.
    pairs = read_pairs(written(mat_bytes(agedb_variables(), compress=True), "04.mat"))
    assert pairs.first == ["A_1.jpg", "A_1.jpg", "C_1.jpg", "C_1.jpg"]
    assert pairs.second == ["A_2.jpg", "B_1.jpg", "C_2.jpg", "D_1.jpg"]
    np.testing.assert_array_equal(pairs.same, [True, False, True, False])
    np.testing.assert_array_equal(pairs.fold, [0, 0, 1, 1])


@pytest.mark.parametrize(
    ("field", "value", "match"),
    [
        ("labels", [[1, 0]], r"splits\{2\}:2: expected the label 1 or -1, found 0"),
        ("labels", [[1, -1, 1]], r"splits\{2\}: expected 2 x pairs images and a label a pair"),
        ("pairs", cells(["A", "B", "C", "D"], (2, 2)), r"splits\{2\}:1: expected two structs that"),
        ("pairs", cells([{"n": "A"}] * 4, (2, 2)), r"splits\{2\}:1: expected two images"),
        (
            "pairs",
            cells([{"n": n} for n in ("E", "A_1", "F", "B_1")], (2, 2)),
            r"splits\{2\}:2: expected a new pair, found the pair of line 2 of .*splits\{1\} again",
        ),
        (
            "pairs",
            cells([{"n": n} for n in ("A_1", "E", "B_1", "F")], (2, 2)),
            r"splits\{2\}:1: expected a different pair, as in line 2 of .*splits\{1\}, found",
        ),
    ],
)
def test_a_broken_agedb_protocol_is_refused(written, field, value, match):
    variables = agedb_variables()
    variables["splits"][1, 0][field] = value
    with pytest.raises(InputError, match=match):
        read_agedb(written(mat_bytes(variables, compress=False)))
    with pytest.raises(InputError, match="expected the variable splits"):
        read_agedb(written(mat_bytes({"other": 1}, compress=False)))


# Any list, written and read back.

names = st.text(st.sampled_from("abcXYZ019_-.'éß北"), min_size=1, max_size=6).filter(
    lambda name: name not in (".", "..")
)
paths = st.builds("{}/{}.jpg".format, names, names)


@st.composite
def pair_lists(draw):
    folds, size = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    count = 2 * folds * size
    chosen = draw(st.lists(paths, min_size=2 * count, max_size=2 * count, unique=True))
    same = draw(st.permutations([True, False] * size))
    return folds, chosen[:count], chosen[count:], np.array(list(same) * folds)


@settings(max_examples=40)
@given(pair_lists(), st.sampled_from(["\t", ",", " "]), st.sampled_from(["\n", "\r\n"]), st.data())
def test_any_list_is_read_back(written, pairs, separator, end, data):
    folds, first, second, same = pairs
    rows = list(zip(first, second, map(str, same.astype(int)), strict=True))
    form = data.draw(st.sampled_from(["last", "first", "two lines", "csv"]))
    if form == "first":
        rows = [(label, a, b) for a, b, label in rows]
    elif form == "two lines":
        rows = [row for a, b, label in rows for row in ((a, label), (b, label))]
    elif form == "csv":
        separator, rows = ",", [("first", "second", "same"), *rows]
    found = read_pairs(written(end.join(separator.join(row) for row in rows)), folds)
    fold = np.repeat(np.arange(folds), same.size // folds)
    np.testing.assert_equal(found, PairList(first, second, same, fold))


@settings(max_examples=30)
@given(
    st.integers(1, 3),
    st.integers(1, 3),
    st.lists(names, min_size=2, max_size=20, unique=True),
    st.data(),
)
def test_any_lfw_list_is_read_back(written, folds, size, people, data):
    person, number = st.sampled_from(people), st.integers(1, 9999)
    same_pairs = st.tuples(person, number, number).filter(lambda p: p[1] < p[2])
    apart = st.tuples(person, number, person, number).filter(lambda p: p[0] < p[2])
    count = {"min_size": folds * size, "max_size": folds * size, "unique": True}
    same, different = data.draw(st.lists(same_pairs, **count)), data.draw(st.lists(apart, **count))
    rows = [
        row
        for fold in range(folds)
        for part in (same, different)
        for row in part[fold * size : (fold + 1) * size]
    ]
    text = "\n".join("\t".join(map(str, row)) for row in [(folds, size), *rows])
    found = read_lfw_pairs(written(text), "{name}_{number}")
    assert found.first == [f"{row[0]}_{row[1]}" for row in rows]
    assert found.second == [
        f"{row[0]}_{row[2]}" if len(row) == 3 else f"{row[2]}_{row[3]}" for row in rows
    ]
    np.testing.assert_array_equal(found.same, [len(row) == 3 for row in rows])
    np.testing.assert_array_equal(found.fold, np.repeat(np.arange(folds), 2 * size))


# The released files.


@pytest.fixture
def released(real_data):
    return real_data / "protocols"


def test_released_lfw(released):
    pairs = read_lfw_pairs(released / "lfw" / "pairs.txt")
    assert (len(pairs.first), pairs.same.sum()) == (6000, 3000)
    assert np.bincount(pairs.fold).tolist() == [600] * 10
    assert pairs.first[0] == "Abel_Pacheco/Abel_Pacheco_0001.jpg"
    assert len(pairs.names()) == 7701
    for part, size in (("Train", 1100), ("Test", 500)):
        view1 = read_lfw_pairs(released / "lfw" / f"pairsDev{part}.txt")
        assert (len(view1.first), view1.same.sum(), view1.fold.max()) == (2 * size, size, 0)


def test_released_ytf_and_cfp(released):
    videos = read_ytf_splits(released / "ytf_splits_no_header.txt")
    assert (len(videos.first), videos.same.sum()) == (5000, 2500)
    assert videos.first[0] == "Sadie_Frost/1"
    for pairs in read_cfp(released / "cfp_protocol.zip").values():
        assert (len(pairs.first), pairs.same.sum()) == (7000, 3500)
        assert np.bincount(pairs.fold).tolist() == [700] * 10


def test_released_blufr(released):
    config = read_blufr(released / "blufr_lfw_config.mat", "{name}_{number:04}.jpg")
    again = np.load(released / "blufr_lfw.npz", allow_pickle=False)
    assert config.images == again["image_list"].tolist()
    np.testing.assert_array_equal(config.labels, again["labels"])
    theirs = scipy.io.loadmat(released / "blufr_lfw_config.mat")
    text = (released / "blufr_lfw_config_info.txt").read_text().split("Average:")[0]
    for number, (trial, facts) in enumerate(
        zip(config.trials, text.split("Set ")[1:], strict=True)
    ):
        for field, name in zip(trial._fields, ("train", "test", "gal", "prob"), strict=True):
            indices = getattr(trial, field)
            np.testing.assert_array_equal(indices, again[f"{name}_{number}"])
            np.testing.assert_array_equal(indices, theirs[f"{name}Index"][number, 0].ravel() - 1)
        genuine = np.isin(config.labels[trial.probe], config.labels[trial.gallery])
        counts = [trial.train.size, same_pairs(config.labels[trial.train]), trial.test.size]
        counts += [same_pairs(config.labels[trial.test]), trial.gallery.size]
        counts += [genuine.sum(), (~genuine).sum()]
        stated = re.findall(r"(?:#img =|#pos =|Gal:|GenProb:|ImpProb:) (\d+)", facts)
        assert counts == list(map(int, stated))


def same_pairs(labels):
    sizes = np.bincount(labels)
    return int((sizes * (sizes - 1) // 2).sum())
