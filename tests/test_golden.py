"""A released network gives the features it gave: on photos that this library read and aligned."""

import hashlib

import numpy as np
import pytest

from hyperface.data import store
from hyperface.data.alignment import Aligner
from hyperface.data.datasets import open_split
from hyperface.data.pipeline import evaluation_batches
from hyperface.data.planning import Options
from hyperface.data.sources import open_source

# A MobileFaceNet, (pixel - 127.5) / 127.5 in RGB, 99.4 % on LFW. Measured by onnxruntime 1.32.
DIGEST = "87aacdfe57510db2af90c0251df680e8eec88f122ee94712121d09bcaaaf3581"
GOLDEN = {
    "Alastair_Campbell/Alastair_Campbell_0001.jpg": [0.10248, 0.01122, -0.11185, -0.10397],
    "Alastair_Campbell/Alastair_Campbell_0002.jpg": [-0.01781, 0.18739, 0.12840, -0.15862],
    "AJ_Cook/AJ_Cook_0001.jpg": [-0.18985, 0.04733, -0.07808, 0.14739],
}
COSINES = (0.59331, -0.00710, -0.04346)
"""Of the first photo with the second, the first with the third, and the second with the third."""


@pytest.fixture(scope="module")
def faces(real_data, tmp_path_factory):
    """The photos from their zip file, aligned, stored and read again, by name."""
    out = tmp_path_factory.mktemp("golden") / "photos"
    points = real_data / "lfw/lfw_deepfunneled_landmarks.csv"
    if not points.is_file():
        pytest.skip("HYPERFACE_DATA_DIR has no photos of LFW with landmarks")
    options = Options(held_out="all", keep=tuple(GOLDEN), align=Aligner(points, (112, 112)))
    photos = open_source(str(real_data / "photos/lfw_250.zip"), out.parent)
    store.prepare(photos, out, options)
    split = open_split("photos", "test", out.parent)
    names = [record["name"].decode() for record in split.records]
    (batch,) = evaluation_batches(split, batch_size=len(names))
    return dict(zip(names, batch["images"], strict=True))


@pytest.fixture(scope="module")
def network(real_data):
    path = real_data / "weights/fr_feature.onnx"
    if not path.is_file():
        pytest.skip("HYPERFACE_DATA_DIR has no weights/fr_feature.onnx")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    assert hashlib.sha256(path.read_bytes()).hexdigest() == DIGEST
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def features(image):
        pixels = np.float32(image.transpose(2, 0, 1)[None] * (128.0 / 127.5))
        return session.run(["output"], {"input": pixels})[0][0]

    return features


def test_features_of_a_released_network_are_the_golden_ones(faces, network):
    """Blue for red, another alignment or another scale of the pixels moves them by far more."""
    found = {name: network(faces[name]) for name in GOLDEN}
    for name, expected in GOLDEN.items():
        np.testing.assert_allclose(found[name][:4], expected, atol=2e-4)
    first, second, third = (feature / np.linalg.norm(feature) for feature in found.values())
    cosines = (first @ second, first @ third, second @ third)
    np.testing.assert_allclose(cosines, COSINES, atol=2e-4)
