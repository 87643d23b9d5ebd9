"""Heads: where scale and radius start, the floor, dropout, and that each term is its loss."""

from dataclasses import replace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hyperface import losses, theory
from hyperface.config.loss import (
    AdaFaceTerm,
    BatchContrastiveTerm,
    BatchTripletTerm,
    CContrastiveTerm,
    CenterTerm,
    CTripletTerm,
    CustomTerm,
    Loss,
    MagFaceTerm,
    MarginTerm,
    RingTerm,
    SoftmaxTerm,
    SphereFaceTerm,
)
from hyperface.heads import AgentHead, CenterHead, Context, Heads, RingHead

LABELS = np.arange(6) % 5


@pytest.fixture
def batch(rng):
    return jnp.asarray(rng.standard_normal((6, 4)), jnp.float32), jnp.asarray(LABELS)


def softmax_head(**options):
    return AgentHead(5, (("softmax", SoftmaxTerm(**options)),))


def test_the_learned_scale_starts_where_the_bound_is_small(batch):
    head = softmax_head(initial_bound=0.05)
    params = head.init(jax.random.key(0), *batch)["params"]
    scalars = head.apply({"params": params}, *batch).scalars
    np.testing.assert_allclose(theory.softmax_lower_bound(5, params["scale"]), 0.05, rtol=1e-5)
    np.testing.assert_allclose(scalars["softmax_bound"], 0.05, rtol=1e-5)


def test_the_learned_scale_never_acts_below_its_floor_and_can_climb_back(batch):
    head = softmax_head(min_scale=0.5)
    params = head.init(jax.random.key(0), *batch)["params"]
    params["agents"] = jnp.eye(5, 4)
    aligned = (params["agents"][:4], jnp.arange(4))

    def loss(scale):
        made = head.apply({"params": params | {"scale": scale}}, *aligned)
        return made.total, made.scalars["scale"]

    (_, used), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(jnp.float32(-3.0))
    assert used == 0.5
    assert gradient < 0  # Well-separated features want a larger scale: descent raises it.


def test_a_fixed_scale_is_no_parameter(batch):
    params = softmax_head(scale=20.0).init(jax.random.key(0), *batch)["params"]
    assert set(params) == {"agents"}


def test_agents_start_on_the_sphere_only_where_their_length_does_not_matter(batch):
    def norms(normalize):
        head = softmax_head(normalize=normalize, scale=1.0)
        agents = head.init(jax.random.key(0), *batch)["params"]["agents"]
        return np.linalg.norm(agents, axis=1), np.abs(agents).max()

    np.testing.assert_allclose(norms("both")[0], 1.0, rtol=1e-6)
    np.testing.assert_allclose(norms("agents")[0], 1.0, rtol=1e-6)
    assert norms("none")[1] <= np.sqrt(3 / 4)  # Caffe's xavier, fan-in 4.


def test_the_radius_starts_at_the_first_batchs_mean_norm(batch):
    params = RingHead().init(jax.random.key(0), batch[0])["params"]
    expected = np.linalg.norm(batch[0], axis=1).mean()
    np.testing.assert_allclose(params["radius"], expected, rtol=1e-6)
    fixed = RingHead(RingTerm(weight=1.0, initial_radius=3.0))
    assert fixed.init(jax.random.key(0), batch[0])["params"]["radius"] == 3


def test_dropout_keeps_the_mean_of_the_features():
    """Evaluation drops nothing: what trained on shorter features would see longer ones there."""
    keys = jax.random.split(jax.random.key(0), 400)
    found = softmax_head(dropout=0.6)._dropped(jnp.ones((400, 8)), keys)
    np.testing.assert_allclose(np.unique(found), [0.0, 2.5], rtol=1e-6)
    np.testing.assert_allclose(np.mean(found), 1.0, atol=0.1)


def test_dropout_follows_the_keys_alone(batch):
    head = softmax_head(dropout=0.5)
    variables = head.init(jax.random.key(0), *batch)
    keys = jax.random.split(jax.random.key(1), 6)
    whole = head.apply(variables, *batch, Context(keys=keys)).terms["softmax"]
    part = head.apply(variables, batch[0][3:], batch[1][3:], Context(keys=keys[3:]))
    np.testing.assert_allclose(whole[3:], part.terms["softmax"], rtol=1e-5)
    assert not np.allclose(whole, head.apply(variables, *batch).terms["softmax"])


# name -> (options, the loss of features, the head's parameters and labels at step 3).
TERMS = {
    "softmax": (
        SoftmaxTerm(scale=3.0, bias=True, allow_normalized_bias=True),
        lambda f, p, y: losses.softmax(
            f, p["agents"], y, scale=3.0, bias=p["bias"], allow_normalized_bias=True
        ),
    ),
    "c_contrastive": (
        CContrastiveTerm(margin=2.0),
        lambda f, p, y: losses.c_contrastive(f, p["agents"], y, margin=2.0),
    ),
    "c_triplet": (
        CTripletTerm(negatives="hardest", always_pull=True),
        lambda f, p, y: losses.c_triplet(f, p["agents"], y, negatives="hardest", always_pull=True),
    ),
    "a_softmax": (
        SphereFaceTerm(margin=3),
        lambda f, p, y: losses.a_softmax(
            f, p["agents"], y, margin=3, blend=losses.annealed_blend(3)
        ),
    ),
    "l_softmax": (
        SphereFaceTerm(margin=2, start=0.0, floor=0.0),
        lambda f, p, y: losses.l_softmax(f, p["agents"], y, margin=2),
    ),
    "margin_softmax": (
        MarginTerm(scale=8.0, angular_margin=0.5),
        lambda f, p, y: losses.margin_softmax(f, p["agents"], y, scale=8.0, angular_margin=0.5),
    ),
    "margin_softmax, released": (
        MarginTerm(scale=8.0, angular_margin=0.5, gradient="released"),
        lambda f, p, y: losses.margin_softmax(f, p["agents"], y, scale=8.0, angular_margin=0.5),
    ),
    "adaface": (
        AdaFaceTerm(scale=8.0, margin=0.3, concentration=0.5),
        lambda f, p, y: losses.adaface(
            f,
            p["agents"],
            y,
            statistics=losses.NormStatistics(),
            scale=8.0,
            margin=0.3,
            concentration=0.5,
        ),
    ),
    "magface": (
        MagFaceTerm(scale=8.0, upper_margin=1.0, lower_norm=0.5, upper_norm=3.0, regularizer=2.0),
        lambda f, p, y: (
            losses.magface(
                f, p["agents"], y, scale=8.0, upper_margin=1.0, lower_norm=0.5, upper_norm=3.0
            )
            + 2.0 * losses.magface_regularizer(f, lower_norm=0.5, upper_norm=3.0)
        ),
    ),
    "center": (CenterTerm(), lambda f, p, y: losses.center(f, p["centers"], y)),
    "contrastive": (
        BatchContrastiveTerm(mining="hardest"),
        lambda f, p, y: losses.batch_contrastive(f, y, mining="hardest"),
    ),
    "triplet": (
        BatchTripletTerm(mining="violating"),
        lambda f, p, y: losses.batch_triplet(f, y, mining="violating"),
    ),
    "ring": (
        RingTerm(form="released-l2"),
        lambda f, p, y: losses.ring(f, p["radius"], form="released-l2"),
    ),
}


@pytest.mark.parametrize("name", TERMS)
def test_a_term_is_its_loss_weighted_over_the_counted_examples(batch, name):
    options, loss = TERMS[name]
    name = name.partition(",")[0]
    terms = {"softmax": SoftmaxTerm(weight=0.0), name: replace(options, weight=0.7)}
    heads = Heads(5, Loss(**terms))
    variables = heads.init(jax.random.key(0), *batch)
    made = heads.apply(variables, *batch, Context(step=3))
    assert set(made.terms) == {name}
    parameters = variables.get("params", {}).get(name, {})
    expected = loss(*batch[:1], parameters, batch[1])
    np.testing.assert_allclose(made.terms[name], expected, rtol=1e-5)
    np.testing.assert_allclose(made.total, 0.7 * jnp.sum(expected), rtol=1e-5)
    if name not in ("contrastive", "triplet"):  # whose examples depend on each other
        some = heads.apply(variables, *batch, Context(step=3, counted=jnp.arange(6) < 4))
        np.testing.assert_allclose(some.total, 0.7 * jnp.sum(expected[:4]), rtol=1e-5)


@pytest.mark.parametrize(
    "terms",
    [
        *({"ring": RingTerm(weight=0.7, form=form)} for form in ("paper", "released-auto")),
        {"center": CenterTerm(weight=0.7)},
        {"contrastive": BatchContrastiveTerm(weight=0.7)},
        {"triplet": BatchTripletTerm(weight=0.7)},
        {"softmax": SoftmaxTerm(weight=0.7)},
        {"magface": MagFaceTerm(weight=0.7)},
        {"custom": (CustomTerm("log", lambda f, y: -jnp.log(jnp.sum(f**2, axis=1)), 0.7),)},
    ],
    ids=lambda terms: "-".join(terms),
)
@pytest.mark.parametrize("padding", [0.0, 1e30, np.nan])
def test_padding_changes_nothing_whatever_its_features_are(batch, terms, padding):
    """Squares of 1e30 overflow in float32, and the loss of the user is infinite at zero."""
    heads = Heads(5, Loss(**{"softmax": SoftmaxTerm(weight=0.0), **terms}))
    features, labels = batch[0].at[4:].set(padding), batch[1]
    variables = heads.init(jax.random.key(0), *batch)
    context = Context(counted=jnp.arange(6) < 4)

    def total(variables, features, labels, context=None):
        return heads.apply(variables, features, labels, context).total

    run = jax.value_and_grad(total, argnums=(0, 1))
    found, (to_variables, to_features) = run(variables, features, labels, context)
    expected, expected_gradients = run(variables, features[:4], labels[:4])
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    chex.assert_trees_all_close((to_variables, to_features[:4]), expected_gradients, rtol=1e-4)
    np.testing.assert_array_equal(to_features[4:], 0.0)


def test_shared_agents_give_every_term_from_one_matrix(batch):
    loss = Loss(
        softmax=SoftmaxTerm(scale=3.0),
        c_contrastive=CContrastiveTerm(weight=0.1),
        margin_softmax=MarginTerm(weight=0.5, scale=8.0, cosine_margin=0.3),
        share_agents=True,
    )
    heads = Heads(5, loss)
    variables = heads.init(jax.random.key(0), *batch)
    assert set(variables["params"]) == {"shared"}
    made = heads.apply(variables, *batch)
    agents = variables["params"]["shared"]["agents"]
    expected = {
        "softmax": losses.softmax(batch[0], agents, batch[1], scale=3.0),
        "c_contrastive": losses.c_contrastive(batch[0], agents, batch[1]),
        "margin_softmax": losses.margin_softmax(
            batch[0], agents, batch[1], scale=8.0, cosine_margin=0.3
        ),
    }
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), made.terms, expected)
    apart = replace(loss, share_agents=False)
    params = Heads(5, apart).init(jax.random.key(0), *batch)["params"]
    assert set(params) == {"softmax", "c_contrastive", "margin_softmax"}


def test_agent_distances_are_those_of_proposition_3(batch):
    head = softmax_head()
    variables = head.init(jax.random.key(0), *batch)
    made = head.apply(variables, *batch)
    found = theory.updated_distortion(jnp.full(5, jnp.nan), made.agent_distances, batch[1])
    agents = variables["params"]["agents"]
    np.testing.assert_allclose(
        found, theory.agent_distortion(*batch[:1], agents, batch[1], 5), rtol=1e-5
    )


def test_the_centers_gradient_is_their_direction_whatever_the_weight(batch):
    head = CenterHead(5, CenterTerm(weight=0.01))
    # Example 5 is of the class of example 0, and padding.
    context = Context(counted=jnp.arange(6) < 4)
    variables = head.init(jax.random.key(0), *batch, context)

    def total(variables):
        return head.apply(variables, *batch, context).total

    found = (
        jax.jit(jax.grad(total))(variables)["params"]["centers"] / 4
    )  # as the step does, by examples
    centers, (features, labels) = variables["params"]["centers"], batch
    kept = np.arange(6) < 4
    expected = losses.center_direction(centers, features[kept], labels[kept])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_the_released_margin_gradient_is_that_of_the_loss(batch):
    options = MarginTerm(weight=1.0, scale=8.0, angular_margin=0.5, gradient="released")
    heads = Heads(5, Loss(softmax=SoftmaxTerm(weight=0.0), margin_softmax=options))
    variables = heads.init(jax.random.key(0), *batch)
    agents = variables["params"]["margin_softmax"]["agents"]

    def total(f):
        return jnp.sum(
            losses.margin_softmax(
                f, agents, batch[1], scale=8.0, angular_margin=0.5, gradient="released"
            )
        )

    found = jax.jit(jax.grad(lambda f: heads.apply(variables, f, batch[1]).total))(batch[0])
    np.testing.assert_allclose(found, jax.jit(jax.grad(total))(batch[0]), rtol=1e-5)


def test_adafaces_statistics_move_before_they_are_used(batch):
    """By the counted examples, and only where the collection may be changed."""
    options = AdaFaceTerm(weight=1.0, scale=8.0, momentum=0.5)
    heads = Heads(5, Loss(softmax=SoftmaxTerm(weight=0.0), adaface=options))
    variables = heads.init(jax.random.key(0), *batch)
    assert variables["batch_stats"]["adaface"] == {"norm_mean": 20.0, "norm_std": 100.0}
    context = Context(counted=jnp.arange(6) < 4)
    made, updated = heads.apply(variables, *batch, context, mutable=["batch_stats"])
    expected = losses.updated_norm_statistics(losses.NormStatistics(), batch[0][:4], momentum=0.5)
    moved = updated["batch_stats"]["adaface"]
    np.testing.assert_allclose((moved["norm_mean"], moved["norm_std"]), expected, rtol=1e-6)
    loss = losses.adaface(
        batch[0],
        variables["params"]["adaface"]["agents"],
        batch[1],
        statistics=expected,
        scale=8.0,
    )
    np.testing.assert_allclose(made.terms["adaface"][:4], loss[:4], rtol=1e-5)
    assert made.scalars["adaface_norm_mean"] == moved["norm_mean"]
