"""The optimiser: its groups, both forms of momentum by hand, clipping, freezing, accumulation."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hyperface.config.experiment import Experiment, Group, Groups, Model, Optimizer
from hyperface.config.loss import CenterTerm, CTripletTerm, Loss, RingTerm, SoftmaxTerm
from hyperface.train.optim import (
    group_summaries,
    learning_rate,
    make_optimizer,
    parameter_groups,
)
from hyperface.train.state import abstract_state

PARAMS = {
    "backbone": {"conv": {"kernel": 1.0, "bias": 1.0}, "norm": {"scale": 1.0, "bias": 1.0}},
    "head": {"softmax": {"agents": 1.0, "scale": 1.0}, "center": {"centers": 1.0}},
}
ONES = jax.tree.map(jnp.float32, PARAMS)


def after(optimizer, gradients, loss=None, params=ONES):
    """Parameters after each of some steps, with one gradient for all parameters a step."""
    transformation = make_optimizer(optimizer, loss or Loss(), 100)
    state, seen = transformation.init(params), []
    for gradient in gradients:
        grads = jax.tree.map(lambda p, g=gradient: jnp.full_like(p, g), params)
        updates, state = transformation.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        seen.append(params)
    return seen


def test_every_parameter_of_a_network_has_its_group():
    loss = Loss(c_triplet=CTripletTerm(1.0), center=CenterTerm(0.1), ring=RingTerm(0.1))
    state = abstract_state(
        Experiment("x", 1, loss=loss, model=Model(feature_dim=8)), 5, (16, 14, 1)
    )
    groups = parameter_groups(state.params)
    assert groups["head"] == {
        "softmax": {"agents": "head.agents", "scale": "head.scale"},
        "c_triplet": {"agents": "head.agents"},
        "center": {"centers": "head.centers"},
        "ring": {"radius": "head.radius"},
    }
    assert groups["backbone"]["conv1"] == {"kernel": "backbone.kernels", "bias": "backbone.biases"}
    assert groups["backbone"]["prelu1"] == {"slope": "backbone.slopes"}
    assert parameter_groups(PARAMS)["backbone"]["norm"] == {
        "scale": "backbone.norms",
        "bias": "backbone.norms",
    }
    assert parameter_groups({"backbone": {"gamma": 1.0}}) == {
        "backbone": {"gamma": "backbone.others"}
    }
    found = group_summaries(state.params, Optimizer())
    summaries = {group.name: group.parameters for group in found}
    assert summaries["agents"] == 2 * 5 * 8
    assert sum(summaries.values()) == sum(leaf.size for leaf in jax.tree.leaves(state.params))


def test_decay_is_added_before_momentum_and_leaves_out_what_it_should():
    """Two steps by hand: v = mu v + g + wd w, w = w - lr v."""
    optimizer = Optimizer(learning_rate=0.1, momentum=0.5, weight_decay=0.2)
    params = after(optimizer, [1.0, 1.0])[-1]
    # Decayed: v = 1.2, w = 0.88; v = 0.6 + 1 + 0.176 = 1.776, w = 0.7024.
    # Others: v = 1, w = 0.9; v = 1.5, w = 0.75.
    np.testing.assert_allclose(params["backbone"]["conv"]["kernel"], 0.7024, rtol=1e-6)
    np.testing.assert_allclose(params["head"]["softmax"]["agents"], 0.7024, rtol=1e-6)
    for other in (
        params["backbone"]["conv"]["bias"],
        *params["backbone"]["norm"].values(),
        params["head"]["softmax"]["scale"],
        params["head"]["center"]["centers"],
    ):
        np.testing.assert_allclose(other, 0.75, rtol=1e-6)


def test_groups_multiply_rate_and_decay():
    groups = Groups(agents=Group(rate=100.0, decay=0.0), scale=Group(decay=1.0), kernels=Group(0.0))
    optimizer = Optimizer(learning_rate=0.001, momentum=0.0, weight_decay=0.5, groups=groups)
    params = after(optimizer, [1.0])[-1]
    np.testing.assert_allclose(params["head"]["softmax"]["agents"], 0.9, rtol=1e-6)
    np.testing.assert_allclose(params["head"]["softmax"]["scale"], 1 - 0.0015, rtol=1e-6)
    assert params["backbone"]["conv"]["kernel"] == 1.0


@pytest.mark.parametrize("inside", [False, True])
def test_caffes_velocity_keeps_its_length_when_the_rate_falls(inside):
    """Gradient 1 twice, momentum 0.6, rate 0.1 then 0.01; two steps of one bias."""
    optimizer = Optimizer(
        learning_rate=0.1, momentum=0.6, boundaries=(1,), factor=0.1, rate_in_velocity=inside
    )
    seen = [p["backbone"]["conv"]["bias"] for p in after(optimizer, [1.0, 1.0])]
    # Outside: v = 1, w = 0.9; v = 1.6, w = 0.9 - 0.016 = 0.884.
    # Inside: v = 0.1, w = 0.9; v = 0.06 + 0.01 = 0.07, w = 0.83.
    np.testing.assert_allclose(seen, [0.9, 0.83 if inside else 0.884], rtol=1e-6)


def test_clipping_is_of_the_whole_gradient():
    optimizer = Optimizer(learning_rate=1.0, momentum=0.0, weight_decay=0.0, clip=3.5)
    params = after(optimizer, [5.0])[-1]  # 7 parameters: length 5 sqrt(7)
    expected = 1 - 5 * 3.5 / (5 * np.sqrt(7))
    np.testing.assert_allclose(jax.tree.leaves(params), expected, rtol=1e-5)


def test_a_frozen_backbone_waits_without_momentum():
    optimizer = Optimizer(learning_rate=0.1, momentum=0.5, weight_decay=0.3, freeze_backbone=2)
    first, second, third = after(optimizer, [1.0] * 3)
    assert second["backbone"] == ONES["backbone"]
    np.testing.assert_allclose(first["head"]["softmax"]["scale"], 0.9, rtol=1e-6)
    np.testing.assert_allclose(third["backbone"]["conv"]["bias"], 0.9, rtol=1e-6)


def test_frozen_layers_keep_their_values_and_have_no_momentum():
    optimizer = Optimizer(learning_rate=0.1, weight_decay=0.3, frozen=("con*",))
    found = after(optimizer, [1.0, 1.0])[-1]
    assert found["backbone"]["conv"] == ONES["backbone"]["conv"]
    assert found["backbone"]["norm"]["scale"] < 1
    momentum = make_optimizer(optimizer, Loss(), 100).init(ONES)
    trained = make_optimizer(Optimizer(), Loss(), 100).init(ONES)
    assert len(jax.tree.leaves(momentum)) < len(jax.tree.leaves(trained))
    summaries = {group.name: str(group) for group in group_summaries(ONES, optimizer)}
    assert "kernels" not in summaries
    assert summaries["frozen"] == "frozen 2 (0 x rate, 0 x decay)"


def test_a_run_without_frozen_layers_has_the_state_of_earlier_versions():
    """A checkpoint of an earlier version could not be restored otherwise."""
    state = make_optimizer(Optimizer(), Loss(), 100).init(ONES)
    assert "backbone.frozen" not in state.inner_states


def test_accumulated_batches_make_one_update_of_their_mean():
    one = Optimizer(learning_rate=0.1, boundaries=(2,), factor=0.5)
    two = Optimizer(learning_rate=0.1, boundaries=(4,), factor=0.5, accumulate=2)
    seen = after(two, [0.0, 2.0, 3.0, 1.0, 5.0, 5.0])
    assert seen[0] == ONES
    expected = after(one, [1.0, 2.0, 5.0])
    for found, wanted in zip(seen[1::2], expected, strict=True):
        np.testing.assert_allclose(jax.tree.leaves(found), jax.tree.leaves(wanted), rtol=1e-6)


def test_a_frozen_backbone_waits_for_batches_not_for_updates():
    """With two batches an update, as many images are seen before it moves."""
    frozen = Optimizer(learning_rate=0.1, freeze_backbone=4, accumulate=2)
    seen = [p["backbone"]["conv"]["bias"] for p in after(frozen, [1.0] * 6)]
    np.testing.assert_allclose(seen, [1.0, 1.0, 1.0, 1.0, 1.0, 0.9], rtol=1e-6)


def test_centers_under_the_papers_rule_know_no_schedule():
    loss = Loss(softmax=SoftmaxTerm(), center=CenterTerm(weight=0.01, rate=0.5))
    optimizer = Optimizer(learning_rate=1e-3, momentum=0.9, weight_decay=0.1)
    seen = [float(p["head"]["center"]["centers"]) for p in after(optimizer, [0.2, 0.2], loss)]
    np.testing.assert_allclose(seen, [0.9, 0.8], rtol=1e-6)


def test_learning_rate_falls_at_each_boundary():
    for warm_up in (0, 4):
        rate = learning_rate(
            Optimizer(learning_rate=0.1, boundaries=(10, 20), factor=0.1, warm_up=warm_up), 30
        )
        np.testing.assert_allclose([rate(9), rate(10), rate(20)], [0.1, 0.01, 0.001], rtol=1e-5)


@pytest.mark.parametrize("schedule", ["steps", "cosine"])
def test_learning_rate_rises_linearly_in_the_warm_up(schedule):
    rate = learning_rate(Optimizer(learning_rate=0.1, schedule=schedule, warm_up=4), 24)
    np.testing.assert_allclose([rate(t) for t in range(5)], [0.02, 0.04, 0.06, 0.08, 0.1], 1e-6)


def test_a_cosine_ends_at_the_last_step():
    rate = learning_rate(Optimizer(learning_rate=0.1, schedule="cosine", warm_up=4), 24)
    found = [rate(step) for step in (4, 9, 14, 19, 24)]
    np.testing.assert_allclose(found, 0.05 * (1 + np.cos(np.pi * np.arange(5) / 4)), atol=1e-8)
