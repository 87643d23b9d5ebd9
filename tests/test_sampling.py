"""The sampled head: what is drawn, and that losses and gradients are those of what was drawn."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hyperface import losses

CLASSES, DIM = 40, 6
LABELS = np.array([3, 39, 3, 20, 17], np.int32)


@pytest.fixture
def problem(rng):
    features = rng.standard_normal((5, DIM)).astype(np.float32)
    return features, rng.standard_normal((CLASSES, DIM)).astype(np.float32)


@pytest.mark.parametrize("rate", [0.01, 0.3, 1.0])
def test_present_rows_are_distinct_and_hold_every_class_of_the_batch(rate):
    for seed in range(20):
        sample = losses.sample_classes(jax.random.key(seed), LABELS, CLASSES, rate=rate)
        rows = np.asarray(sample.rows)
        present = rows[np.asarray(sample.present)]
        assert len(set(present)) == len(present)
        np.testing.assert_array_equal(rows[sample.labels], LABELS)
        assert np.all(sample.present[sample.labels])
        assert len(rows) == int(np.ceil(rate * CLASSES)) + len(LABELS)
    assert rate < 1 or len(present) == CLASSES


def test_every_class_is_drawn_as_often():
    """Of 40 classes 12 a draw: counts over 4,000 draws are within five standard deviations."""
    draw = jax.vmap(lambda key: losses.sample_classes(key, LABELS[:1], CLASSES, rate=0.3).rows[:12])
    rows = np.asarray(draw(jax.random.split(jax.random.key(0), 4000)))
    counts = np.bincount(rows.ravel(), minlength=CLASSES)
    assert np.all(abs(counts - 1200) < 5 * np.sqrt(4000 * 0.3 * 0.7))


TERMS = {
    "softmax": partial(losses.softmax, scale=9.0),
    "c_contrastive": partial(losses.c_contrastive, margin=2.5),
    "hardest": partial(losses.c_triplet, negatives="hardest"),
    "a_softmax": losses.a_softmax,
}


@pytest.mark.parametrize("block_size", [None, 7])
@pytest.mark.parametrize("name", TERMS)
def test_the_loss_is_that_over_the_present_classes(problem, name, block_size):
    features, agents = problem
    sample = losses.sample_classes(jax.random.key(1), LABELS, CLASSES, rate=0.3)
    kept = np.unique(np.asarray(sample.rows)[np.asarray(sample.present)])

    def sampled(f, w):
        return jnp.sum(
            TERMS[name](
                f, w[sample.rows], sample.labels, present=sample.present, block_size=block_size
            )
        )

    def small(f, w):
        return jnp.sum(TERMS[name](f, w[kept], np.searchsorted(kept, LABELS)))

    found = jax.jit(jax.value_and_grad(sampled, argnums=(0, 1)))(features, agents)
    expected = jax.jit(jax.value_and_grad(small, argnums=(0, 1)))(features, agents)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-5), found, expected)
    others = np.setdiff1d(np.arange(CLASSES), kept)
    np.testing.assert_array_equal(found[1][1][others], 0.0)


def test_shards_draw_their_own_and_agree_on_the_loss(problem):
    features, agents = problem
    loss = TERMS["softmax"]

    def sharded(features, agents, labels):
        key = jax.random.key(3)
        sample = losses.sample_classes(key, labels, 5, rate=0.4, axis_name="classes")

        def total(f, w):
            engine = {"present": sample.present, "axis_name": "classes"}
            return jnp.sum(loss(f, w[sample.rows], sample.labels, **engine))

        return sample, *jax.jit(jax.value_and_grad(total, argnums=(0, 1)))(features, agents)

    sample, value, (to_features, to_agents) = jax.pmap(
        sharded, axis_name="classes", in_axes=(None, 0, None)
    )(features, agents.reshape(8, 5, DIM), LABELS)
    rows = np.asarray(sample.rows) + 5 * np.arange(8)[:, None]
    kept = np.unique(rows[np.asarray(sample.present)])
    assert set(LABELS) <= set(kept)
    assert len(np.unique(np.diff(np.asarray(sample.rows[:, :2])))) > 1  # not all shards alike

    def small(f, w):
        return jnp.sum(loss(f, w[kept], np.searchsorted(kept, LABELS)))

    expected = jax.jit(jax.value_and_grad(small, argnums=(0, 1)))(features, agents)
    close = partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-5)
    close(value, np.full(8, expected[0]))
    close(to_features[4], expected[1][0])
    close(to_agents.reshape(CLASSES, DIM), expected[1][1])


def test_an_unknown_label_is_nan_and_a_wrong_rate_refused(problem):
    features, agents = map(jnp.asarray, problem)

    @jax.jit
    def loss(labels):
        sample = losses.sample_classes(jax.random.key(0), labels, CLASSES, rate=0.5)
        return losses.softmax(
            features, agents[sample.rows], sample.labels, scale=5.0, present=sample.present
        )

    wrong = np.where(np.arange(5) == 1, CLASSES, LABELS)
    np.testing.assert_array_equal(np.isnan(loss(wrong)), np.arange(5) == 1)
    for rate in (0.0, 1.5):
        with pytest.raises(ValueError, match="rate above 0 and up to 1"):
            losses.sample_classes(jax.random.key(0), LABELS, CLASSES, rate=rate)
    with pytest.raises(TypeError, match="present of dtype bool"):
        losses.softmax(features, agents, LABELS, present=np.ones(CLASSES))
    with pytest.raises(ValueError, match=r"present \[40\], one per class"):
        losses.softmax(features, agents, LABELS, present=np.ones(3, bool))
