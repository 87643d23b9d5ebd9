"""Golden values of the bounds, and the bounds as bounds."""

import hypothesis
import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
import pytest

from hyperface import losses, theory

# (classes, scale, bound): NormFace's 8.27 for CASIA at s = 1, the others from the closed form.
BOUNDS = [
    (10575, 1, 8.2663),
    (10575, 4, 5.2709),
    (10575, 5, 4.2796),
    (10575, 10, 0.3918),
    (10575, 15, 0.0032),
    (10572, 1, 8.2660),
    (10572, 4, 5.2706),
    (10572, 10, 0.3917),
    (31000, 1, 9.3418),
    (31000, 10, 0.8783),
    (31000, 15, 0.0094),
    (10, 1, 1.3769),
    (10, 4, 0.1005),
    (1000, 1, 5.9085),
    (1000, 10, 0.0439),
]


@pytest.mark.parametrize(("classes", "scale", "bound"), BOUNDS)
def test_golden_bounds(classes, scale, bound):
    np.testing.assert_allclose(theory.softmax_lower_bound(classes, scale), bound, atol=6e-5)


@pytest.mark.parametrize(
    ("classes", "scale"), [(10, 4.004), (10572, 11.517), (31000, 12.593), (1_000_000, 16.068)]
)
def test_golden_scales_for_a_bound_of_a_tenth(classes, scale):
    np.testing.assert_allclose(theory.scale_for_bound(classes, 0.1), scale, atol=6e-4)


@hypothesis.given(st.integers(2, 10**6), st.floats(0.01, 5.0))
@hypothesis.settings(max_examples=30)
def test_scale_is_the_inverse_of_the_bound(classes, bound):
    scale = theory.scale_for_bound(classes, bound)
    np.testing.assert_allclose(theory.softmax_lower_bound(classes, scale), bound, rtol=3e-5)


def test_max_probability_is_the_papers():
    np.testing.assert_allclose(theory.max_probability(10), 0.4509, atol=5e-5)
    np.testing.assert_allclose(theory.max_probability(1000), 0.00734, atol=5e-6)
    assert theory.max_probability(1) == 1.0


@pytest.mark.parametrize(("classes", "dim"), [(2, 3), (10, 4), (30, 64)])
@pytest.mark.parametrize("scale", [1.0, 5.0, 20.0])
def test_random_agents_never_beat_the_bound(classes, dim, scale, rng):
    bound = theory.softmax_lower_bound(classes, scale)
    for _ in range(10):
        agents = jnp.asarray(rng.standard_normal((classes, dim)), jnp.float32)
        loss = losses.softmax(agents, agents, jnp.arange(classes), scale=scale)
        assert jnp.mean(loss) >= bound * (1 - 1e-5)


@pytest.mark.parametrize("classes", [2, 5, 30])
def test_the_simplex_meets_the_bound(classes):
    simplex = np.eye(classes, dtype=np.float32) - 1 / classes
    loss = losses.softmax(simplex, simplex, np.arange(classes), scale=6.0)
    np.testing.assert_allclose(loss, theory.softmax_lower_bound(classes, 6.0), rtol=2e-5)


def test_proposition_3_bounds_the_distortion_of_every_other_feature(rng):
    labels = rng.integers(0, 4, 60)
    features, agents = rng.standard_normal((60, 5)), rng.standard_normal((4, 5))
    found = theory.agent_distortion(features.astype("f4"), agents.astype("f4"), labels, 4)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    unit_agents = agents / np.linalg.norm(agents, axis=1, keepdims=True)
    for c in range(4):
        own = unit[labels == c]
        bound = np.mean(np.sum((own - unit_agents[c]) ** 2, axis=1))
        np.testing.assert_allclose(found[c], bound, rtol=1e-5)
        for other in unit:
            apart = np.linalg.norm(other - own, axis=1) - np.linalg.norm(other - unit_agents[c])
            assert np.mean(apart**2) <= bound + 1e-12
    with pytest.raises(ValueError, match="expected 5 agents, found 4"):
        theory.agent_distortion(features.astype("f4"), agents.astype("f4"), labels, 5)


def test_angular_margin_is_the_papers():
    """Figure 2b: equal norms leave theta_2 itself; a long other feature leaves nothing."""
    np.testing.assert_allclose(theory.angular_margin(1.0, 0.1), np.arccos(0.1), rtol=1e-6)
    np.testing.assert_allclose(theory.angular_margin([10.0, 20.0], 0.1), 0.0, atol=1e-3)


def test_bad_class_counts_are_refused():
    with pytest.raises(ValueError, match="at least 2 classes, found 1"):
        theory.scale_for_bound(1, 0.1)
    with pytest.raises(ValueError, match="at least 1 classes, found 0"):
        theory.softmax_lower_bound(0, 1.0)
    assert theory.softmax_lower_bound(1, 3.0) == 0.0
