"""Alignment against closed forms and an independent warp; landmark files line by line."""

import numpy as np
import pytest
from scipy import ndimage

from hyperface.data.alignment import (
    TEMPLATE_112x96,
    TEMPLATE_112x112,
    align,
    eye_mouth,
    similarity,
    warp,
)
from hyperface.data.landmarks import check_landmarks, read_landmarks
from hyperface.errors import InputError

HEADER = "file,lex,ley,rex,rey,nx,ny,lmx,lmy,rmx,rmy"
FACE = TEMPLATE_112x96 * 2.0 + 20.0
IMAGE = np.zeros((300, 260, 3), np.uint8)


def shifted(x, y):
    return FACE + np.array([x, y])


def moved(points, matrix):
    return points @ matrix[:, :2].T + matrix[:, 2]


def random_similarity(rng, scale=(0.4, 1.6), shift=30.0):
    angle, size = rng.uniform(-np.pi, np.pi), rng.uniform(*scale)
    turn = size * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.column_stack([turn, rng.uniform(-shift, shift, 2)])


def smooth_image(rng, height, width):
    noise = ndimage.gaussian_filter(rng.normal(size=(height, width, 3)), (3, 3, 0))
    return np.clip(128 + 600 * noise, 1, 255).astype(np.uint8)


def umeyama(points, template):
    """Rotation from the singular vectors of the covariance, never a reflection."""
    x, y = points - points.mean(0), template - template.mean(0)
    u, singular, vt = np.linalg.svd(y.T @ x)
    sign = np.array([1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    linear = (singular @ sign) / np.sum(x**2) * (u * sign) @ vt
    return np.column_stack([linear, template.mean(0) - linear @ points.mean(0)])


# ---------------------------------------------------------------------------------------- matrices


@pytest.mark.parametrize("mirrored", [False, True])
def test_the_similarity_is_umeyamas(rng, mirrored):
    for _ in range(50):
        points = moved(TEMPLATE_112x96, random_similarity(rng)) + rng.normal(0, 8, (5, 2))
        points *= (-1.0, 1.0) if mirrored else (1.0, 1.0)
        found = similarity(points, TEMPLATE_112x112)
        np.testing.assert_allclose(found, umeyama(points, TEMPLATE_112x112), atol=1e-9)
        assert np.linalg.det(found[:, :2]) > 0


def test_a_known_similarity_is_found(rng):
    matrix = random_similarity(rng)
    np.testing.assert_allclose(similarity(FACE, moved(FACE, matrix)), matrix, atol=1e-10)


def test_equal_points_have_no_similarity():
    with pytest.raises(ValueError, match="two different points"):
        similarity(np.full((5, 2), 7.0), TEMPLATE_112x96)


@pytest.mark.parametrize(("size", "row"), [(144, 48.0), (128, 40.0)])
def test_wus_alignment_levels_the_eyes_and_sets_the_mouth_below(rng, size, row):
    for _ in range(20):
        points = moved(FACE, random_similarity(rng)) + rng.normal(0, 2, (5, 2))
        matrix = eye_mouth(points, size)
        left, right, _, *mouth = moved(points, matrix)
        np.testing.assert_allclose((left + right) / 2, (size / 2, row))
        assert left[1] == pytest.approx(right[1])
        assert left[0] < right[0]
        assert np.mean(mouth, axis=0)[1] - row == pytest.approx(48.0)
        np.testing.assert_allclose(matrix[0, 0], matrix[1, 1])
        np.testing.assert_allclose(matrix[0, 1], -matrix[1, 0])


def test_wus_test_image_is_the_centre_of_the_training_image(rng):
    image = smooth_image(rng, 300, 260)
    large, small = (align(image, FACE, (side, side)) for side in (144, 128))
    assert large.shape == (144, 144, 1)
    np.testing.assert_array_equal(small, large[8:-8, 8:-8])


@pytest.mark.parametrize(
    ("points", "size", "message"),
    [
        (FACE, 112, "expected size 144 or 128, found 112"),
        (FACE[[0, 0, 2, 3, 4]], 128, "two eyes above the mouth"),
        (FACE[[3, 4, 2, 0, 1]], 128, "two eyes above the mouth"),
    ],
)
def test_wus_alignment_refuses_what_it_cannot_level(points, size, message):
    with pytest.raises(ValueError, match=message):
        eye_mouth(points, size)


# ---------------------------------------------------------------------------------------- warping


@pytest.mark.parametrize("shape", [(7, 5, 3), (8, 6, 1), (1, 1, 3)])
def test_the_identity_changes_nothing(rng, shape):
    image = rng.integers(0, 256, shape, dtype=np.uint8)
    np.testing.assert_array_equal(warp(image, np.eye(2, 3), shape[:2]), image)


def test_a_shift_by_whole_and_half_pixels_is_exact(rng):
    image = rng.integers(0, 256, (6, 7, 3), dtype=np.uint8)
    found = warp(image, np.array([[1.0, 0, 2], [0, 1, -1]]), (6, 7))
    expected = np.zeros_like(image)
    expected[:5, 2:] = image[1:, :5]
    np.testing.assert_array_equal(found, expected)
    found = warp(image, np.array([[1.0, 0, 0.5], [0, 1, 0]]), (6, 8))
    left, right = (np.pad(image, ((0, 0), side, (0, 0))) for side in ((1, 0), (0, 1)))
    mean = (left.astype(float) + right) / 2  # At both sides the edge is half black.
    np.testing.assert_array_equal(found, np.rint(mean))


@pytest.mark.parametrize("sides", [(40, 60), (260, 220)])
def test_warping_equals_an_independent_bilinear_warp(rng, sides):
    for _ in range(10):
        image, matrix = smooth_image(rng, *sides), random_similarity(rng)
        inverse = np.linalg.inv(np.vstack([matrix, (0, 0, 1)]))
        turned = inverse[[1, 0]][:, [1, 0, 2]]  # (row, column) in place of (x, y).
        channels = [
            ndimage.affine_transform(
                image[..., c].astype(float), turned[:, :2], turned[:, 2], (112, 96), order=1,
                mode="grid-constant",
            )
            for c in range(3)
        ]  # fmt: skip
        found = warp(image, matrix, (112, 96))
        np.testing.assert_allclose(found, np.stack(channels, -1), atol=0.501)


def test_only_the_face_of_a_large_image_matters(rng):
    image = smooth_image(rng, 300, 260)
    framed = rng.integers(0, 256, (900, 800, 3), dtype=np.uint8)
    framed[400:700, 350:610] = image
    np.testing.assert_array_equal(align(framed, shifted(350, 400)), align(image, FACE))


@pytest.mark.parametrize("size", [(112, 96), (112, 112)])
def test_aligned_landmarks_lie_on_the_template(rng, size):
    template = TEMPLATE_112x96 if size[1] == 96 else TEMPLATE_112x112
    matrix = random_similarity(rng, scale=(1.5, 2.0), shift=0.0)
    points = moved(shifted(-116, -164) / 2, matrix) + 205
    rows, columns = np.mgrid[:410, :410]
    for (x, y), target in zip(points, template, strict=True):
        spot = 255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 50)
        image = np.rint(spot).astype(np.uint8)[..., None]
        aligned = align(image, points, size)[..., 0].astype(float)
        centre = ndimage.center_of_mass(aligned)[::-1]
        np.testing.assert_allclose(centre, target, atol=0.05)


def test_the_wider_image_is_the_narrower_with_eight_columns_more_a_side(rng):
    image = smooth_image(rng, 300, 260)
    np.testing.assert_array_equal(align(image, FACE, (112, 112))[:, 8:-8], align(image, FACE))


def test_what_lies_outside_the_image_is_black(rng):
    image = smooth_image(rng, 300, 260)
    aligned = align(image, shifted(-40, 0))
    assert not aligned[:, :5].any()
    assert aligned[:, -5:].all()


def test_another_size_is_refused():
    with pytest.raises(ValueError, match=r"expected a size of .*\(112, 96\).*found \(96, 112\)"):
        align(IMAGE, FACE, (96, 112))


# --------------------------------------------------------------------------------------- landmarks

SWAPPED = [1, 0, 2, 4, 3]


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (FACE[:4], "five finite points"),
        (np.vstack([FACE[:4], (np.nan, 9.0)]), "five finite points"),
        (np.full((5, 2), 50.0), "at least a pixel apart, found 0 pixels"),
        (FACE / 300.0, "at least a pixel apart, found 0.27"),
        (FACE[SWAPPED], "the left eye on the left"),
        (FACE[[1, 0, 2, 3, 4]], "the left eye on the left"),
        (FACE[[0, 0, 2, 3, 4]], "the left eye on the left"),
        (FACE * (-1, 1) + (260, 0), "the left eye on the left"),
        (shifted(300, 0), r"in the image of 260 x 300 pixels, found \(380.589, 123.393\)"),
        (shifted(0, -220), r"found \(80.5892, -96.6074\)"),
    ],
)
def test_what_is_no_face_is_refused(points, message):
    with pytest.raises(ValueError, match=message):
        align(IMAGE, points)


def test_faces_at_any_angle_and_at_the_edge_pass(rng):
    for _ in range(50):
        check_landmarks(moved(shifted(-116, -150), random_similarity(rng)) + 150, (300, 300))
    check_landmarks(shifted(-110, 0), IMAGE.shape[:2])


def test_landmarks_come_back_by_name(tmp_path):
    path = tmp_path / "landmarks.csv"
    lines = [
        HEADER + ",fallback",
        "b/é 1.jpg,1,2,3,4,5,6,7,8,9.5,-10,0",
        "a/2.jpg" + ",nan" * 10 + ",1",
    ]
    path.write_bytes("\ufeff".encode() + "\r\n".join(lines).encode())
    found = read_landmarks(path)
    assert list(found) == ["b/é 1.jpg", "a/2.jpg"]
    np.testing.assert_array_equal(found["b/é 1.jpg"], [(1, 2), (3, 4), (5, 6), (7, 8), (9.5, -10)])
    assert np.isnan(found["a/2.jpg"]).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"marks.csv:1: expected the columns file,lex.* none named file, lex"),
        (HEADER.replace("rex,", "") + "\n", r"marks.csv:1: .* none named rex\."),
        (HEADER + "\n", "expected a line for each image, found none"),
        (HEADER + "\na.jpg" + ",1" * 10 + "\nb.jpg,1,2,3\n", r"marks.csv:3: expected a value for"),
        (HEADER + "\na.jpg" + ",1" * 11 + "\n", r"marks.csv:2: expected a value for each"),
        (HEADER + "\n" + ",1" * 10 + "\n", r"marks.csv:2: expected a value for each"),
        (HEADER + "\na.jpg,x" + ",1" * 9 + "\n", r"marks.csv:2: expected ten numbers, found \['x'"),
        (HEADER + "\na.jpg," + ",1" * 9 + "\n", r"marks.csv:2: expected ten numbers, found \[''"),
        (HEADER + ("\na.jpg" + ",1" * 10) * 2, r"marks.csv:3: .* once, found 'a.jpg' again"),
        (HEADER + '\n"a.jpg' + ",1" * 10, r"a CSV file of landmarks at .*marks.csv, found: "),
        ("\udcff" + HEADER, "expected UTF-8, found .*utf-8"),
        (None, "expected a file of text, found none"),
    ],
)
def test_every_line_is_checked(tmp_path, text, message):
    path = tmp_path / "marks.csv"
    if text is not None:
        path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(InputError, match=message):
        read_landmarks(path)


def test_real_landmarks_are_all_read_and_all_pass(real_data):
    counts = {
        "lfw/lfw_deepfunneled_landmarks.csv": 13_233,
        "celeba299/landmarks_in_original.csv": 6_277,
    }
    for name, count in counts.items():
        found = read_landmarks(real_data / name)
        assert len(found) == count
        for points in found.values():
            check_landmarks(points, (250, 250) if name.startswith("lfw") else (2600, 3400))
