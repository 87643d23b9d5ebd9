"""Low resolution: sizes, the two resamplings, and what is refused."""

import numpy as np
import pytest
from PIL import Image

from hyperface.data.resolution import FACTORS, degrade


@pytest.fixture
def noise(rng):
    return rng.integers(0, 256, (112, 96, 3), dtype=np.uint8)


def test_factor_one_is_the_image_itself(noise):
    np.testing.assert_array_equal(degrade(noise, 1), noise)


@pytest.mark.parametrize(
    ("factor", "small"),
    [*zip(FACTORS, [(48, 56), (24, 28), (19, 22), (16, 19), (12, 14)], strict=True)],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_image_passes_through_the_smaller_one(noise, factor, small, channels):
    image = Image.fromarray(noise[..., 0] if channels == 1 else noise)
    expected = image.resize(small, Image.Resampling.BICUBIC).resize((96, 112), 3)
    found = degrade(noise[..., :channels], factor)
    np.testing.assert_array_equal(found, np.asarray(expected).reshape(112, 96, channels))


def test_detail_goes_and_means_stay(noise):
    spread = [degrade(noise, factor).std() for factor in (1, *FACTORS)]
    assert all(np.diff(spread) < 0)
    assert degrade(noise, 64).mean() == pytest.approx(noise.mean(), abs=1.0)
    ramp = np.repeat(np.arange(40, 232, 2, dtype=np.uint8)[None, :, None], 112, axis=0)
    np.testing.assert_allclose(degrade(ramp, 4)[:, 8:-8], ramp[:, 8:-8].astype(float), atol=1)


@pytest.mark.parametrize("factor", [0, -4, 0.5, np.nan, np.inf, 4 * 96**2 + 1])
def test_other_factors_are_refused(noise, factor):
    with pytest.raises(ValueError, match=r"expected an area factor .* found"):
        degrade(noise, factor)
