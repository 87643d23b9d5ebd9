"""What holds of every normalised loss at any features, and of every softmax in any confidence."""

from functools import partial

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hyperface import losses

BATCH, CLASSES, DIM = 6, 5, 4
ROUNDING = 1e-3

# name -> loss of (features, agents, labels) that sees directions of features only.
NORMALISED = {
    "softmax": partial(losses.softmax, scale=20.0),
    "softmax, features": partial(losses.softmax, normalize="features", scale=3.0),
    "softmax, released": partial(losses.softmax, scale=20.0, gradient="caffe"),
    "c_contrastive": partial(losses.c_contrastive, margin=2.0),
    "c_triplet": losses.c_triplet,
    "c_triplet, hardest": partial(losses.c_triplet, negatives="hardest", always_pull=True),
    "c_triplet, released": partial(losses.c_triplet, gradient="caffe"),
    "arcface": partial(losses.margin_softmax, scale=30.0, angular_margin=0.5),
    "cosface": partial(losses.margin_softmax, scale=30.0, cosine_margin=0.35),
    "adaface": partial(losses.adaface, statistics=losses.NormStatistics(1.0, 1.0), scale=30.0),
    "contrastive": lambda f, w, y: losses.contrastive(f, w[y], y % 2 == 0, margin=3.0),
    "triplet": lambda f, w, y: losses.triplet(f, w[y], w[(y + 1) % CLASSES], margin=3.0),
    "batch_contrastive": lambda f, w, y: losses.batch_contrastive(f, y, margin=3.0),
    "batch_triplet": lambda f, w, y: losses.batch_triplet(f, y, mining="hardest", margin=3.0),
}
ALSO_OF_AGENTS = (
    "softmax",
    "c_contrastive",
    "c_triplet",
    "c_triplet, hardest",
    "arcface",
    "cosface",
    "adaface",
)


@partial(jax.jit, static_argnums=0)
def gradients(name, features, agents, labels):
    def total(f, w):
        return jnp.sum(NORMALISED[name](f, w, labels))

    return jax.jit(jax.grad(total, argnums=(0, 1)))(features, agents)


@hypothesis.given(
    seed=st.integers(0, 2**32 - 1),
    length=st.floats(-3.0, 3.0),
    labels=st.lists(st.integers(0, CLASSES - 1), min_size=BATCH, max_size=BATCH),
    rate=st.floats(1e-3, 10.0),
)
@hypothesis.example(seed=0, length=0.0, labels=[2] * BATCH, rate=1.0)
@hypothesis.settings(max_examples=12)
@pytest.mark.parametrize("name", NORMALISED)
def test_gradients_are_tangent_and_a_step_lengthens(name, seed, length, labels, rate):
    """<x, dL/dx> = 0, so that no gradient step shortens x (NormFace, 3.2), at lengths 1e-3 to 1e3.

    So too for agents where their gradient goes through the normalisation.
    """
    rng = np.random.default_rng(seed)
    features = (10**length * rng.standard_normal((BATCH, DIM))).astype(np.float32)
    agents = rng.standard_normal((CLASSES, DIM)).astype(np.float32)
    if name in ALSO_OF_AGENTS:
        agents *= np.float32(10**-length)
    to_features, to_agents = gradients(name, features, agents, np.asarray(labels, np.int32))
    sides = [(features, to_features)]
    if name in ALSO_OF_AGENTS:
        sides.append((agents, to_agents))
    for x, gradient in sides:
        gradient = np.asarray(gradient, np.float64)
        norm = np.linalg.norm(x, axis=1)
        assert np.all(np.isfinite(gradient))
        # The rounding of six examples' slopes of up to 30, several times float32's 1e-7.
        assert np.all(abs(np.sum(x * gradient, axis=1)) <= ROUNDING)
        step = rate * norm[:, None] ** 2 * gradient  # lengths apart, whatever the norm
        assert np.all(np.linalg.norm(x - step, axis=1) >= norm * (1 - ROUNDING * max(rate, 1)))


def confident(rng, scale):
    """Cosines to the own agent about 0.9, and about `scale` long for losses that see the length."""
    agents = rng.standard_normal((200, 512))
    agents /= np.linalg.norm(agents, axis=1, keepdims=True)
    labels = rng.integers(0, 200, 32).astype(np.int32)
    features = agents[labels] + 0.021 * rng.standard_normal((32, 512))
    return scale * features, agents, labels


# name -> (loss, scale of the features, relative error in float32, in "mixed").
SOFTMAX_LIKE = {
    name: (loss, 1.0, 1e-5, 2e-3)
    for name, loss in {
        "softmax": partial(losses.softmax, scale=64.0),
        "softmax, features": partial(losses.softmax, normalize="features", scale=64.0),
        "arcface": partial(losses.margin_softmax, scale=64.0, angular_margin=0.5),
        "cosface": partial(losses.margin_softmax, scale=64.0, cosine_margin=0.35),
    }.items()
} | {
    name: (loss, 64.0, 1e-5, 3e-3)  # about 70 long
    for name, loss in {
        "softmax, agents": partial(losses.softmax, normalize="agents"),
        "softmax, none": partial(losses.softmax, normalize="none"),
        "a_softmax": partial(losses.a_softmax, margin=4, blend=5.0),
        "l_softmax": partial(losses.l_softmax, margin=4, blend=5.0),
    }.items()
}


@pytest.mark.parametrize("name", SOFTMAX_LIKE)
def test_confident_gradients_keep_their_digits(name, rng):
    loss, scale, *tolerances = SOFTMAX_LIKE[name]
    features, agents, labels = confident(rng, scale)

    def gradients(dtype, **engine):
        mean = jax.grad(lambda f, w: jnp.mean(loss(f, w, labels, **engine)), argnums=(0, 1))
        found = jax.jit(mean)(jnp.asarray(features, dtype), jnp.asarray(agents, dtype))
        return [np.asarray(x, np.float64) for x in found]

    with jax.enable_x64(True):
        exact = gradients(jnp.float64)
    probability = np.exp(-np.mean(np.asarray(loss(features, agents, labels))))
    assert probability > 0.999  # or the case would test nothing
    for precision, tolerance in zip(("float32", "mixed"), tolerances, strict=True):
        for found, truth in zip(gradients(jnp.float32, precision=precision), exact, strict=True):
            assert np.linalg.norm(found - truth) <= tolerance * np.linalg.norm(truth)


@pytest.mark.parametrize(
    "term",
    [
        losses.Softmax(9.0),
        losses.CContrastive(),
        losses.CTriplet(),
        losses.CTriplet(negatives="hardest"),
        losses.SphereFace(),
        losses.MarginSoftmax(9.0, 1.0, 0.5),
        losses.AdaFace(losses.NormStatistics(), 9.0),
        losses.MagFace(9.0),
    ],
)
def test_a_batch_of_nothing_but_padding_has_no_gradient(term, rng):
    features = rng.standard_normal((BATCH, DIM)).astype(np.float32)
    agents = rng.standard_normal((CLASSES, DIM)).astype(np.float32)
    features[0] = 0.0

    def total(f, w):
        labels, weights = np.zeros(BATCH, np.int32), (np.zeros(BATCH, np.float32),)
        return losses.weighted_sum([term], f, w, labels, weights)

    value, found = jax.jit(jax.value_and_grad(total, argnums=(0, 1)))(features, agents)
    assert value == 0
    for gradient in found:
        np.testing.assert_array_equal(gradient, 0.0)
