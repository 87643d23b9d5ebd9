"""Faces in photos: networks, boxes, pyramid, weights and the cascade, without any download.

The networks get weights made here, by which a white square of 40 pixels is a face.
"""

import contextlib
import importlib.metadata
import io
import pickle

import jax
import joblib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hyperface.data.detection import Faces, Mtcnn, boxes, checked, chosen, mtcnn, networks, pyramid
from hyperface.data.detection import weights as stored
from hyperface.errors import InputError

SQUARE = 40
POINTS = np.array([(0.3, 0.4), (0.7, 0.4), (0.5, 0.6), (0.35, 0.8), (0.65, 0.8)])


def random_weights(rng):
    return {
        network: {name: rng.normal(0, 0.3, shape).astype("f4") for name, shape in shapes.items()}
        for network, shapes in networks.SHAPES.items()
    }


def white_square_weights():
    """Each network computes about the mean of its window; a face has one above 0.85."""
    weights = {}
    for network, shapes in networks.SHAPES.items():
        own = {name: np.zeros(shape, "f4") for name, shape in shapes.items()}
        for name, array in own.items():
            if name.startswith("conv") and name.endswith("kernel"):
                inputs = 3 if name == "conv1/kernel" else 1
                array[:, :, :inputs, 0] = 1 / (array.shape[0] * array.shape[1] * inputs)
            elif name == "dense/kernel":
                array[:: own["conv4/bias" if network == "onet" else "conv3/bias"].size, 0] = 1 / 9
            elif name.endswith("slope"):
                array[:] = 1.0
        own["face/kernel"][..., 0, 1] = 20.0
        own["face/bias"][1] = -17.0
        if network == "onet":
            own["points/bias"][:] = POINTS.T.ravel()
        weights[network] = own
    return weights


@pytest.fixture(scope="module")
def find():
    """A detector of white squares."""
    return Mtcnn(smallest=SQUARE, weights=white_square_weights())


def photo(*corners, shape=(200, 260), side=SQUARE):
    """A black photo with a white square at each (left, top)."""
    pixels = np.zeros((*shape, 3), np.uint8)
    for left, top in corners:
        pixels[top : top + side, left : left + side] = 255
    return pixels


# ------------------------------------------------------------------------------- boxes and windows


def test_windows_lie_where_the_network_looked():
    found = boxes.window_boxes(np.array([0, 3]), np.array([0, 5]), np.array([0.5, 0.25]))
    np.testing.assert_allclose(found, [(0, 0, 24, 48), (20, 24, 44, 72)])


@pytest.mark.parametrize(("of", "expected"), [("union", 25 / 175), ("smaller", 25 / 100)])
def test_overlap_is_shared_area_over_the_whole_or_the_smaller(of, expected):
    first = np.array([0.0, 0, 10, 10])
    others = np.array([(5.0, 5, 15, 15), (10, 0, 20, 10), (20, 20, 30, 30), (0, 0, 10, 10)])
    np.testing.assert_allclose(boxes.overlap(first, others, of), [expected, 0, 0, 1])


@given(st.integers(0, 2**32 - 1), st.sampled_from(["union", "smaller"]))
def test_suppression_keeps_what_no_better_box_overlaps(seed, of):
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 50, (30, 2))
    found = np.concatenate([corners, corners + rng.uniform(5, 30, (30, 2))], axis=1)
    scores = rng.integers(0, 10, 30) / 10
    kept: list[int] = []
    for index in sorted(range(30), key=lambda i: (-scores[i], i)):
        if all(boxes.overlap(found[k], found[[index]], of)[0] <= 0.4 for k in kept):
            kept.append(index)
    assert boxes.suppressed(found, scores, 0.4, of).tolist() == kept


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(12, 700), st.integers(12, 700)), max_size=4))
def test_each_window_of_each_level_lies_on_the_canvases_once(sizes):
    tiles = pyramid.pack_levels(sizes)
    counts = [np.zeros((pyramid.grid(height), pyramid.grid(width))) for height, width in sizes]
    canvases = np.zeros((1 + max((t.canvas for t in tiles), default=0), *[pyramid.CANVAS] * 2))
    for tile in tiles:
        assert tile.row + tile.height <= pyramid.CANVAS
        assert tile.column + tile.width <= pyramid.CANVAS
        assert all(place % 2 == 0 for place in (tile.top, tile.left, tile.row, tile.column))
        row, column = tile.top // 2, tile.left // 2
        height, width = pyramid.grid(tile.height), pyramid.grid(tile.width)
        counts[tile.level][row : row + height, column : column + width] += 1
        canvas = canvases[tile.canvas, tile.row :, tile.column :]
        canvas[: tile.height, : tile.width] += 1
    assert all((count == 1).all() for count in counts)
    assert canvases.max() <= 1  # No tile lies on another one.


def test_packed_levels_give_what_each_level_gives_alone(rng):
    weights = random_weights(rng)
    detector = Mtcnn(weights=weights)
    source = pyramid.Photo(rng.integers(0, 256, (333, 541, 3), np.uint8))
    sizes = [(333, 541), (37, 60), (13, 21)]
    alone = jax.jit(networks.pnet)
    tiles = pyramid.pack_levels(sizes)
    maps = detector._run("pnet", mtcnn._canvases(source, sizes, tiles))
    for level, size in enumerate(sizes):
        whole = alone(weights["pnet"], (source.resized(*size)[None] - 127.5) / 128)[0]
        found = np.full((pyramid.grid(size[0]), pyramid.grid(size[1]), 5), np.nan, "f4")
        for tile in (tile for tile in tiles if tile.level == level):
            rows, columns, values = mtcnn._passed(maps, tile, -1.0)
            found[rows, columns] = values
        np.testing.assert_allclose(found, whole[: len(found), : found.shape[1]], atol=1e-4)


@pytest.mark.parametrize(("shape", "smallest"), [((12, 12), 12), ((250, 250), 20), ((90, 7), 20)])
def test_levels_shrink_until_a_window_does_not_fit(shape, smallest):
    sizes = pyramid.levels(*shape, smallest)
    assert all(min(size) >= 12 for size in sizes)
    assert bool(sizes) == (min(shape) >= smallest)
    if sizes:
        assert min(sizes[-1]) * pyramid.FACTOR < 12.5


@pytest.mark.parametrize(
    ("box", "slope"),
    [
        ((4.5, 10.25, 40.5, 46.25), 4),
        ((40, 60, 88, 108), 1),
        ((30.5, 21.25, 150.5, 141.25), 1),
        ((9, 4, 201, 196), 1),
    ],
)
def test_parts_of_a_photo_are_in_place_at_every_scale(box, slope):
    side = 256 // slope
    ramp = np.broadcast_to(np.arange(0, 256, slope, dtype=np.uint8), (side, side))
    source = pyramid.Photo(np.stack([ramp, ramp.T, np.zeros_like(ramp)], axis=-1))
    found = source.windows(np.array([box]), 24)[0].astype(float)
    step = (box[2] - box[0]) / 24
    expected = np.arange(24) * step + step / 2 - 0.5
    # Pillow rounds and cuts off: up to a grey level.
    np.testing.assert_allclose(found[12, :, 0], slope * (box[0] + expected), atol=1.01)
    np.testing.assert_allclose(found[:, 12, 1], slope * (box[1] + expected), atol=1.01)


def test_outside_of_a_photo_is_grey():
    source = pyramid.Photo(np.full((40, 40, 3), 255, np.uint8))
    found = source.windows(np.array([(-24.0, -24, 24, 24)]), 24)[0]
    assert (found[:11] == pyramid.GREY).all()
    assert (found[:, :11] == pyramid.GREY).all()
    assert (found[13:, 13:] == 255).all()


# ------------------------------------------------------------------------------------- the cascade


def test_a_square_is_found_where_it_is(find):
    found = find(photo((100, 60)))
    assert len(found.boxes) == 1
    np.testing.assert_allclose(found.boxes[0], (100, 60, 140, 100), atol=4)
    expected = found.boxes[0, :2] + POINTS * (found.boxes[0, 2:] - found.boxes[0, :2]) + 0.5
    np.testing.assert_allclose(found.landmarks[0], expected, atol=1e-3)


def test_several_are_found_and_none(find):
    found = find(photo((20, 20), (180, 40), (100, 140)))
    corners = found.boxes[np.argsort(found.boxes[:, 0]), :2]
    np.testing.assert_allclose(corners, [(20, 20), (100, 140), (180, 40)], atol=4)
    for pixels in (photo(), np.zeros((1, 1, 3), np.uint8), np.zeros((5, 900, 3), np.uint8)):
        empty = find(pixels)
        assert [part.shape for part in empty] == [(0, 4), (0,), (0, 5, 2)]


def test_photos_of_any_size_share_one_program_per_network(find):
    find(photo((100, 60)))
    programs = [mtcnn._program(network) for network in networks.SHAPES]
    before = [program._cache_size() for program in programs]
    for shape in [(40, 60), (640, 480), (1200, 340)]:
        assert len(find(photo((0, 0), shape=shape)).boxes) == 1
    assert [program._cache_size() for program in programs] == before


def test_batches_give_what_single_windows_give(rng):
    detector = Mtcnn(weights=random_weights(rng))
    for network, side in (("rnet", 24), ("onet", 48)):
        windows = rng.integers(0, 256, (mtcnn.BATCHES[network] + 3, side, side, 3), np.uint8)
        alone = [detector._run(network, window[None]) for window in windows]
        found = detector._run(network, windows)
        np.testing.assert_allclose(found, np.concatenate(alone), rtol=1e-4, atol=1e-4)


def test_a_large_photo_is_searched_at_a_bounded_size(find):
    sizes = []

    class Watched(Mtcnn):
        def _run(self, network, inputs):
            sizes.append((network, len(inputs)))
            return super()._run(network, inputs)

    Watched(weights=find.weights)(np.zeros((2600, 3900, 3), np.uint8))
    assert dict(sizes)["pnet"] <= 16
    with pytest.raises(InputError, match="smallest: expected 1 or more, found 0"):
        Mtcnn(smallest=0, weights={})
    with pytest.raises(InputError, match="thresholds: expected three numbers from 0 to 1"):
        Mtcnn(thresholds=(0.5, 0.5), weights={})


def test_a_photo_of_texture_has_bounded_work(rng, monkeypatch):
    monkeypatch.setattr(mtcnn, "MOST", 50)
    weights = white_square_weights()
    weights["pnet"]["face/bias"][1] = 100.0  # Everything is a face.
    seen = []
    detector = Mtcnn(smallest=12, weights=weights)
    monkeypatch.setattr(
        pyramid.Photo,
        "windows",
        lambda self, found, side: (
            seen.append(len(found)) or np.zeros((len(found), side, side, 3), "u1")
        ),
    )
    detector(rng.integers(0, 256, (300, 300, 3), np.uint8))
    assert seen[0] <= 50


# ---------------------------------------------------------------------------- a detector's results


def faces(*sides):
    """Faces of (left, top, side), with points that can be aligned."""
    corner = np.array([(left, top) for left, top, _ in sides], float).reshape(-1, 2)
    side = np.array([side for _, _, side in sides], float)[:, None]
    points = corner[:, None] + POINTS * side[:, None]
    return Faces(np.concatenate([corner, corner + side], axis=1), np.ones(len(sides)), points)


@pytest.mark.parametrize(
    ("which", "expected"), [("largest", [1]), ("central", [2]), ("all", [0, 1, 2])]
)
def test_one_of_several_faces_is_chosen(which, expected):
    found = faces((0, 0, 50), (55, 30, 48), (85, 90, 20))
    assert chosen(found, (200, 200), which).tolist() == expected
    assert chosen(faces(), (200, 200), which).size == 0


def test_a_face_twice_as_large_wins_wherever_it_is():
    assert chosen(faces((90, 90, 20), (0, 0, 41)), (200, 200)).tolist() == [1]


def test_faces_that_cannot_be_aligned_are_not_chosen():
    found = faces((0, 0, 80), (100, 100, 20))
    found.landmarks[0, [0, 1]] = found.landmarks[0, [1, 0]]
    assert chosen(found, (200, 200)).tolist() == [1]
    with pytest.raises(InputError, match="'biggest'"):
        chosen(found, (200, 200), "biggest")


@pytest.mark.parametrize(
    "given_",
    [
        None,
        (np.zeros((1, 4)), np.zeros(1)),
        (np.zeros((2, 4)), np.zeros(1), np.zeros((2, 5, 2))),
        (np.zeros((1, 4)), np.zeros(1), np.zeros((1, 4, 2))),
        (np.zeros((1, 5)), np.zeros(1), np.zeros((1, 5, 2))),
        (["a"], [0], [[[0, 0]] * 5]),
        (np.full((1, 4), np.nan), np.zeros(1), np.zeros((1, 5, 2))),
    ],
)
def test_another_result_of_a_detector_is_refused(given_):
    with pytest.raises(InputError, match="from the detector"):
        checked(given_)


def test_lists_and_nothing_found_are_taken():
    assert checked(([], [], [])).landmarks.shape == (0, 5, 2)
    assert checked(([[0, 1, 2, 3]], [1], [POINTS.tolist()])).boxes.tolist() == [[0, 1, 2, 3]]


# ----------------------------------------------------------------------------------------- weights


def dumped(value):
    """What joblib writes, uncompressed."""
    out = io.BytesIO()
    joblib.dump(value, out)
    return out.getvalue()


def test_arrays_come_back_as_joblib_wrote_them(rng):
    arrays = [rng.normal(size=shape).astype("f4") for shape in [(3, 3, 3, 10), (10,), (0, 4), ()]]
    found = stored.read_arrays(dumped(arrays))
    assert len(found) == 4
    for a, b in zip(found, arrays, strict=True):
        np.testing.assert_array_equal(a, b, strict=True)
    assert stored.read_arrays(dumped([])) == []


class Runs:
    """A pickle of it calls a function."""

    def __reduce__(self):
        return print, ("it ran",)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Runs(), "print, which is refused"),
        ([Runs()], "print, which is refused"),
        (np.zeros(3, "f4"), "something else than a list"),
        ([1, 2], "something else than a list"),
        ([np.zeros(3)], "not of float32"),
        ([np.zeros(3, ">f4")], "not little-endian"),
        ([np.asfortranarray(np.zeros((3, 2), "f4"))], "not a plain one in C order"),
        ([np.zeros(3, "f4").view(np.matrix)], "refused"),
        ([np.array([Runs()], object)], "not of float32"),
        ({"a": np.zeros(3, "f4")}, "something else than a list|refused"),
    ],
)
def test_other_contents_are_refused_and_nothing_runs(value, message, capsys):
    with pytest.raises(ValueError, match=message):
        stored.read_arrays(dumped(value))
    assert "it ran" not in capsys.readouterr().out


@pytest.mark.parametrize("shape", [(2**40,), (2**20, 2**20), (-1,), (1.5,), [3], (1,) * 9])
def test_a_shape_that_cannot_be_true_is_refused(shape):
    data = dumped([np.zeros(3, "f4")])
    good = pickle.dumps((3,), 4)[11:-2]
    assert data.count(good) == 1
    with pytest.raises(ValueError, match=r"shape|announced|instruction"):
        stored.read_arrays(data.replace(good, pickle.dumps(shape, 4)[11:-1].rstrip(b"\x94")))


def test_damaged_weights_are_refused_wherever_the_damage_is(rng):
    data = dumped([np.zeros((2, 3), "f4"), np.zeros(2, "f4")])
    for end in range(len(data) - 1):
        with pytest.raises(ValueError):  # noqa: PT011  Any reason will do.
            stored.read_arrays(data[:end])
    for _ in range(2000):
        damaged = bytearray(data)
        for place in rng.integers(0, len(data), 3):
            damaged[place] = rng.integers(256)
        with contextlib.suppress(ValueError):
            stored.read_arrays(bytes(damaged))


def frame(data):
    return pytest.importorskip("lz4.frame", reason="the extra 'detect' is absent").compress(data)


def test_a_network_comes_back_by_name(rng):
    arrays = random_weights(rng)["rnet"]
    found = stored.read_network(frame(dumped(list(arrays.values()))), "rnet")
    assert found.keys() == arrays.keys()
    np.testing.assert_array_equal(found["dense/kernel"], arrays["dense/kernel"])


def test_files_of_another_network_are_refused(rng):
    arrays = list(random_weights(rng)["rnet"].values())
    with pytest.raises(InputError, match=r"expected the weights of onet, found arrays of the sh"):
        stored.read_network(frame(dumped(arrays)), "onet")
    arrays[0][0, 0, 0, 0] = np.inf
    with pytest.raises(InputError, match="weight that is not finite"):
        stored.read_network(frame(dumped(arrays)), "rnet")
    with pytest.raises(InputError, match="a frame that is cut off"):
        stored.read_network(frame(dumped(arrays))[:-9], "rnet")
    with pytest.raises(InputError, match="a damaged LZ4 frame"):
        stored.read_network(b"\x00" * 40, "rnet")
    with pytest.raises(InputError, match="or has more than 8,000,000 bytes"):
        stored.read_network(frame(bytes(50_000_000)), "rnet")


def test_without_the_package_the_extra_is_named(monkeypatch):
    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", absent)
    with pytest.raises(InputError, match=r"extra 'detect'.*pip install 'hyperface\[detect\]'"):
        Mtcnn()


def test_other_files_of_the_package_are_refused(monkeypatch, tmp_path):
    pytest.importorskip("lz4", reason="the extra 'detect' is absent")
    (tmp_path / "pnet.lz4").write_bytes(b"other weights")
    path = importlib.metadata.PackagePath("pnet.lz4")
    path.dist = importlib.metadata.PathDistribution(tmp_path / "mtcnn.dist-info")
    found = type("Found", (), {"files": [path]})
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: found)
    with pytest.raises(InputError, match=r"pnet.lz4: expected the file of mtcnn 1\.0\.0"):
        Mtcnn()


# ------------------------------------------------------------------------------------- real photos


@pytest.fixture(scope="module")
def real_mtcnn():
    try:
        return Mtcnn()
    except InputError as error:
        pytest.skip(f"the extra 'detect' is absent: {error}")


@pytest.fixture(scope="module")
def lfw_photos(real_data):
    from hyperface.data.landmarks import read_landmarks
    from hyperface.data.sources.trees import zipped

    path = real_data / "photos/lfw_250.zip"
    if not path.exists():
        pytest.skip(f"no raw photos at {path}")
    return zipped(path), read_landmarks(real_data / "lfw/lfw_deepfunneled_landmarks.csv")


def test_faces_of_real_photos_are_found_near_another_programs(real_mtcnn, lfw_photos):
    from hyperface.data.images import upright

    source, expected = lfw_photos
    errors = []
    for index in range(0, len(source.names), 5):
        pixels = upright(source.read(index), channels=3)
        found = real_mtcnn(pixels)
        (best,) = chosen(found, pixels.shape[:2])
        points = expected[source.names[index]]
        eyes = np.linalg.norm(points[1] - points[0])
        errors.append(np.linalg.norm(found.landmarks[best] - points, axis=1) / eyes)
    assert np.median(errors) <= 0.03
    assert np.quantile(errors, 0.9) <= 0.06


@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0, 12.0])
def test_a_real_face_is_found_at_every_size_and_mirrored(real_mtcnn, lfw_photos, scale):
    from hyperface.data.images import upright

    source, expected = lfw_photos
    name = source.names[3]
    image = Image.fromarray(upright(source.read(3), channels=3))
    pixels = np.asarray(image.resize((round(250 * scale),) * 2, Image.Resampling.BICUBIC))
    points, eyes = expected[name], np.linalg.norm(np.diff(expected[name][:2], axis=0))
    found = real_mtcnn(pixels)
    (best,) = chosen(found, pixels.shape[:2])
    assert np.abs(found.landmarks[best] / scale - points).max() < 0.12 * eyes
    mirrored = real_mtcnn(pixels[:, ::-1])
    (best,) = chosen(mirrored, pixels.shape[:2])
    # Points are a pixel to the right of the exact place, in the mirrored photo too.
    back = mirrored.landmarks[best][[1, 0, 2, 4, 3]] * (-1, 1) + (len(pixels) - 1 + 2, 0)
    assert np.abs(back / scale - points).max() < 0.15 * eyes


def test_nothing_is_found_where_no_face_is(real_mtcnn, rng):
    for pixels in (
        np.zeros((200, 300, 3), np.uint8),
        rng.integers(0, 256, (200, 300, 3), np.uint8),
    ):
        assert len(real_mtcnn(pixels).boxes) == 0
