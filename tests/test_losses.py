"""The losses that are no fold over classes, and what belongs to the margin losses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from hyperface import losses, reference
from hyperface.losses._sphereface import psi


@pytest.fixture
def triplets(rng):
    return rng.standard_normal((3, 7, 4))


def test_contrastive_equals_the_formula_and_finite_differences(triplets):
    a, b, _ = triplets
    same = np.arange(7) % 2 == 0
    with jax.enable_x64(True):
        for margin in (0.0, 1.0, 3.9):
            found = losses.contrastive(jnp.asarray(a), jnp.asarray(b), same, margin=margin)
            expected = reference.contrastive(a, b, same, margin=margin)
            np.testing.assert_allclose(found, expected, atol=1e-12)
        check_grads(
            jax.jit(lambda a, b: losses.contrastive(a, b, same, margin=3.9)),
            (jnp.asarray(a), jnp.asarray(b)),
            order=1,
            modes=["rev"],
        )


def test_triplet_equals_the_formula_and_finite_differences(triplets):
    with jax.enable_x64(True):
        arguments = tuple(jnp.asarray(x) for x in triplets)
        np.testing.assert_allclose(
            losses.triplet(*arguments), reference.triplet(*arguments), atol=1e-12
        )
        check_grads(jax.jit(losses.triplet), arguments, order=1, modes=["rev"])


def test_center_is_half_the_squared_distance_and_moves_only_features(rng):
    features, centers = rng.standard_normal((5, 3)), rng.standard_normal((4, 3))
    labels = np.array([0, 3, 3, 1, 0], np.int32)
    with jax.enable_x64(True):
        value, pull = jax.vjp(
            lambda f, c: losses.center(f, c, labels), jnp.asarray(features), jnp.asarray(centers)
        )
        to_features, to_centers = pull(jnp.ones(5))
    apart = features - centers[labels]
    np.testing.assert_allclose(value, 0.5 * np.sum(apart**2, axis=1))
    np.testing.assert_allclose(to_features, apart)
    np.testing.assert_array_equal(to_centers, 0.0)


def test_centers_move_by_wens_rule():
    """Two examples of class 1 pull by their sum over three; class 0 has none and stays."""
    centers = jnp.array([[1.0, 1.0], [0.0, 0.0]])
    features = jnp.array([[3.0, 0.0], [0.0, 6.0]])
    found = losses.updated_centers(centers, features, jnp.array([1, 1]), rate=0.5)
    np.testing.assert_allclose(found, [[1.0, 1.0], [0.5, 1.0]])


def test_a_label_without_a_center_is_nan_and_moves_nothing():
    labels = jnp.array([2, -1])
    features, centers = jnp.ones((2, 3)), jnp.zeros((2, 3))
    assert np.all(np.isnan(jax.jit(losses.center)(features, centers, labels)))
    np.testing.assert_array_equal(
        jax.jit(losses.updated_centers)(centers, features, labels), centers
    )
    with pytest.raises(ValueError, match=r"labels in \[0, 2\)"):
        losses.center(features, centers, labels)


@pytest.mark.parametrize("margin", [1, 2, 3, 4])
def test_psi_falls_from_1_to_1_minus_2m_without_a_jump(margin):
    theta = np.linspace(0, np.pi, 2001)
    with jax.enable_x64(True):
        found = np.asarray(psi(jnp.cos(jnp.asarray(theta)), margin))
    k = np.minimum(np.floor(margin * theta / np.pi), margin - 1)
    printed = (-1.0) ** k * np.cos(margin * theta) - 2 * k
    np.testing.assert_allclose(found, printed, atol=1e-7)
    np.testing.assert_allclose(found[[0, -1]], [1, 1 - 2 * margin], atol=1e-9)
    assert np.all(np.diff(found) < 0)
    assert np.diff(found).min() > -0.01


def test_psi_has_a_finite_slope_at_both_ends():
    slope = jax.vmap(jax.grad(lambda c: psi(c, 4)))(jnp.array([1.0, -1.0]))
    np.testing.assert_allclose(slope, [16.0, 16.0])


@pytest.mark.parametrize(
    ("step", "value"),
    [(0, 892.8571), (100, 76.2195), (500, 16.3613), (600, 13.6761), (700, 11.7481), (800, 10.2965),
     (1000, 8.2563), (1658, 5.0), (100_000, 5.0)],
)  # fmt: skip
def test_annealing_is_the_released_logs(step, value):
    """Numbers printed by the released code, whose counter is 1 at its first step."""
    np.testing.assert_allclose(losses.annealed_blend(step), value, atol=6e-5)


def test_misuse_says_what_was_expected(triplets):
    a, b, c = triplets.astype(np.float32)
    with pytest.raises(TypeError, match="same of dtype bool, found int"):
        losses.contrastive(a, b, np.ones(7, int))
    with pytest.raises(ValueError, match="features_a and features_b of one shape, found"):
        losses.contrastive(a, b[:3], np.ones(7, bool))
    with pytest.raises(ValueError, match="of one shape"):
        losses.triplet(a, b, c[:2])
    with pytest.raises(ValueError, match=r"rate in \[0, 1\], found 2"):
        losses.updated_centers(a, b, np.zeros(7, np.int32), rate=2.0)
    with pytest.raises(ValueError, match="of one dim"):
        losses.center(a, b[:, :2], np.zeros(7, np.int32))
