"""`gradient="caffe"`: the released codes' gradients, worked out by hand from what their layers do.

The layers give the gradient of a sum over examples before the batch mean, so that theirs times the
batch size are compared. Rows of agents are of unit length, as those layers make them first.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hyperface import losses

LABEL = np.zeros(1, np.int32)


def gradients(loss, features, agents, labels=LABEL, **engine):
    value, pull = jax.vjp(lambda f, w: loss(f, w, labels, **engine), features, agents)
    return value, *pull(jnp.ones_like(value))


def expect(loss, features, agents, value, to_features, to_agents, label=0):
    labels = np.full(1, label, np.int32)
    with jax.enable_x64(True):
        features, agents = np.asarray([features], float), np.asarray(agents, float)
        for engine in ({}, {"block_size": 1}, {"block_size": 1, "memory_budget": 2**20}):
            found = gradients(loss, features, agents, labels, **engine)
            np.testing.assert_allclose(found[0], [value], rtol=0, atol=2e-6)
            np.testing.assert_allclose(found[1], [to_features], rtol=0, atol=2e-6)
            np.testing.assert_allclose(found[2], to_agents, rtol=0, atol=2e-6)


# |x| = 5, cos theta = 0.6 to the own agent w = (1, 0); the other logit is 4. With psi and psi' of
# each m by its polynomial, a = psi' and b = (psi - 0.6 psi') / 5 are what multiplies w and x.
A_SOFTMAX = {
    1: (0.6, 1.0, 0.0),
    2: (-0.28, 2.4, -0.344),
    3: (-0.936, 1.32, -0.3456),
    4: (-1.1568, 2.688, -0.55392),  # on the second piece: psi = -(8 c^4 - 8 c^2 + 1) - 2
}


@pytest.mark.parametrize("blend", [0.0, 5.0])
@pytest.mark.parametrize("margin", [1, 2, 3, 4])
def test_a_softmax(margin, blend):
    psi, a, b = A_SOFTMAX[margin]
    size = np.hypot(a, b) if margin > 1 else 1.0
    logit = (3 * blend + 5 * psi) / (1 + blend)
    wrong = 1 / (1 + np.exp(logit - 4))  # the probability of the other class
    w, x, other = np.array([1.0, 0.0]), np.array([3.0, 4.0]), np.array([0.0, 1.0])
    to_logit = (blend * w + (a * w + b * x) / size) / (1 + blend)
    expect(
        lambda *args, **engine: losses.a_softmax(
            *args, margin=margin, blend=blend, gradient="caffe", **engine
        ),
        features=x,
        agents=[w, other],
        value=-np.log(1 - wrong),
        to_features=wrong * (other - to_logit),
        to_agents=[-wrong * x, wrong * x],
    )


def test_softmax():
    """Cosines 0.6 and 0 at scale 2: the wrong probability is 1 / (1 + e^1.2) = 0.231475."""
    expect(
        lambda *args, **engine: losses.softmax(*args, scale=2.0, gradient="caffe", **engine),
        features=[4.0, 0.0],
        agents=[[0.6, 0.8], [0.0, 1.0]],
        value=0.263282,
        # Through the features' normalisation: 2 x 0.231475 (W_1 - W_0) in the tangent, over 4.
        to_features=[0.0, 0.023148],
        to_agents=[[-0.462950, 0.0], [0.462950, 0.0]],
    )


# f~ = (1, 0); the squared distances to the agents are 0.8, 0.4 and 2.
AGENTS = [[0.6, 0.8], [0.8, 0.6], [0.0, 1.0]]


def test_c_contrastive():
    """m = 1: the own agent pulls and the second one is within the margin."""
    expect(
        lambda *args, **engine: losses.c_contrastive(*args, gradient="caffe", **engine),
        features=[2.0, 0.0],
        agents=AGENTS,
        value=0.8 + 0.6,
        to_features=[0.0, (-1.6 + 1.2) / 2],
        to_agents=[[-0.8, 1.6], [0.4, -1.2], [0.0, 0.0]],
    )


@pytest.mark.parametrize("always_pull", [False, True])
@pytest.mark.parametrize(
    ("negatives", "value", "to_features", "of_third"),
    [("all", 2.4 + 0.8, (-1.6 + 1.2 + 2.0) / 2, [2.0, -2.0]), ("hardest", 2.4, -0.2, [0.0, 0.0])],
)
def test_c_triplet(negatives, value, to_features, of_third, always_pull):
    """m = 2: both wrong classes violate, and the own one still pulls once."""
    expect(
        lambda *args, **engine: losses.c_triplet(
            *args,
            margin=2.0,
            negatives=negatives,
            always_pull=always_pull,
            gradient="caffe",
            **engine,
        ),
        features=[2.0, 0.0],
        agents=AGENTS,
        value=value,
        to_features=[0.0, to_features],
        to_agents=[[-0.8, 1.6], [0.4, -1.2], of_third],
    )


@pytest.mark.parametrize("negatives", ["all", "hardest"])
@pytest.mark.parametrize("always_pull", [False, True])
def test_c_triplet_without_a_violation(negatives, always_pull):
    """The second agent is the closest and the margin 0: only `always_pull` moves anything."""
    expect(
        lambda *args, **engine: losses.c_triplet(
            *args,
            margin=0.0,
            negatives=negatives,
            always_pull=always_pull,
            gradient="caffe",
            **engine,
        ),
        features=[2.0, 0.0],
        agents=AGENTS,
        value=0.0,
        to_features=[0.0, -0.6 * always_pull],
        to_agents=[[0.0, 0.0], [-0.4 * always_pull, 1.2 * always_pull], [0.0, 0.0]],
        label=1,
    )


def test_exact_differs_where_the_release_does():
    """All negatives, both violating: the printed loss pulls twice."""
    with jax.enable_x64(True):
        _, to_features, _ = gradients(
            lambda *args: losses.c_triplet(*args, margin=2.0),
            np.array([[2.0, 0.0]]),
            np.asarray(AGENTS),
        )
        np.testing.assert_allclose(to_features, [[0.0, (-3.2 + 1.2 + 2.0) / 2]], atol=1e-12)


def test_center():
    """Two features of class 1 and one of class 2; the sum over 1 + count, whatever the weight."""
    found = losses.center_direction(
        jnp.zeros((3, 1)), jnp.array([[3.0], [6.0], [4.0]]), jnp.array([1, 1, 2])
    )
    np.testing.assert_allclose(found, [[0.0], [-3.0], [-2.0]])


@pytest.mark.parametrize("name", ["softmax", "c_contrastive", "c_triplet", "a_softmax"])
def test_an_unknown_gradient_is_refused(name):
    with pytest.raises(ValueError, match=r"gradient in \('exact', 'caffe'\), found 'torch'"):
        getattr(losses, name)(np.ones((1, 2)), np.ones((3, 2)), LABEL, gradient="torch")
