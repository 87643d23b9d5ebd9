"""Experiments: every shipped one builds, and impossible ones are refused by name."""

import dataclasses
import json
import re

import chex
import jax
import jax.numpy as jnp
import pytest

from hyperface import experiments
from hyperface.config.experiment import (
    Data,
    Evaluation,
    Experiment,
    Group,
    Groups,
    Optimizer,
    check,
)
from hyperface.config.loss import (
    AdaFaceTerm,
    CTripletTerm,
    Loss,
    MagFaceTerm,
    RingTerm,
    SoftmaxTerm,
    SphereFaceTerm,
)
from hyperface.errors import InputError
from hyperface.train.state import abstract_state
from hyperface.train.step import train_step


@pytest.mark.parametrize("name", experiments.names())
def test_every_experiment_builds_and_traces(name):
    experiment = experiments.load(name)
    assert experiment.name == name
    assert all(other in experiments.names() for other in experiment.compare)
    image = (28, 28, 1) if experiment.data.name == "mnist" else (112, 92, 1)
    state = abstract_state(experiment, 10, image)
    size = experiment.data.batch_size
    batch = {
        "images": jax.ShapeDtypeStruct((size, *image), jnp.float32),
        "labels": jax.ShapeDtypeStruct((size,), jnp.int32),
        "mask": jax.ShapeDtypeStruct((size,), jnp.float32),
    }
    after, metrics = jax.eval_shape(train_step, state, batch)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, after)
    assert all(value.shape == () for value in metrics.values())


@pytest.mark.parametrize("name", experiments.names())
def test_every_run_card_says_what_it_is(name):
    card = experiments.run_card(name)
    for part in ("Source:", "Command:", "Data:", "Time:", "Published:", "Measured:"):
        assert part in card, f"{name} lacks {part}"
    assert f"hyperface train {name}" in card or name == experiments.DEFAULT


@pytest.mark.parametrize("name", experiments.names())
def test_json_round_trip(name):
    experiment = experiments.load(name)
    assert Experiment.from_dict(json.loads(json.dumps(experiment.to_dict()))) == experiment


def test_from_dict_refuses_other_fields():
    values = Experiment("x", 1).to_dict()
    with pytest.raises(InputError, match="not an experiment of this version"):
        Experiment.from_dict(values | {"colour": 1})
    with pytest.raises(InputError, match="not an experiment of this version"):
        Experiment.from_dict(values | {"data": {"nme": "orl"}})


GOOD = Experiment("x", steps=20, log_every=5, checkpoint_every=10)
IMPOSSIBLE = [
    ({"steps": 0}, "steps: expected at least 1, found 0"),
    ({"checkpoint_every": 7}, "multiple of log-every (5), found 7"),
    ({"data": Data(batch_size=0)}, "data.batch-size: expected at least 1"),
    ({"optimizer": Optimizer(momentum=1.0)}, "optimizer.momentum: expected in [0, 1), found 1.0"),
    ({"optimizer": Optimizer(learning_rate=float("nan"))}, "optimizer.learning-rate"),
    ({"optimizer": Optimizer(boundaries=(9, 3))}, "steps in rising order, found (9, 3)"),
    ({"loss": Loss(softmax=SoftmaxTerm(scale=-1.0))}, 'a number above 0, or "learned"'),
    ({"loss": Loss(softmax=SoftmaxTerm(normalize="none"))}, "needs normalised features"),
    ({"loss": Loss(softmax=SoftmaxTerm(bias=True))}, "Proposition 1"),
    ({"loss": Loss(softmax=SoftmaxTerm(dropout=1.0))}, "loss.softmax.dropout"),
    ({"loss": Loss(softmax=SoftmaxTerm(weight=0.0))}, "loss: expected a term with a weight"),
    (
        {"loss": Loss(softmax=SoftmaxTerm(weight=float("inf")))},
        "loss.softmax.weight: expected a finite",
    ),
    (
        {"loss": Loss(c_triplet=CTripletTerm(weight=1.0, margin=5.0))},
        "loss.c-triplet.margin: expected 0 to 4, found 5.0",
    ),
    (
        {"loss": Loss(a_softmax=SphereFaceTerm(margin=5))},
        "loss.a-softmax.margin: expected 1 to 4, found 5",
    ),
    ({"loss": Loss(adaface=AdaFaceTerm(momentum=2.0))}, "loss.adaface.momentum: expected 0 to 1"),
    (
        {"loss": Loss(magface=MagFaceTerm(upper_norm=10.0))},
        "loss.magface.upper-norm: expected above the lower norm, 10, found 10.0",
    ),
    ({"loss": Loss(sample_rate=0.0)}, "loss.sample-rate: expected above 0 and up to 1"),
    ({"loss": Loss(memory_budget=-1)}, "loss.memory-budget: expected at least 0, found -1"),
    (
        {"loss": Loss(softmax=SoftmaxTerm(normalize="features", gradient="caffe"))},
        '"caffe" needs normalised agents',
    ),
    (
        {"loss": Loss(l_softmax=SphereFaceTerm(gradient="caffe"))},
        "no released code of this loss",
    ),
    (
        {"loss": Loss(a_softmax=SphereFaceTerm(weight=1.0), share_agents=True)},
        "terms that normalise alike",
    ),
    (
        {"loss": Loss(softmax=SoftmaxTerm(dropout=0.5), share_agents=True)},
        "loss.softmax.dropout 0, since",
    ),
    (
        {"loss": Loss(softmax=SoftmaxTerm(gradient="caffe"), share_agents=True)},
        "has one matrix per term",
    ),
    (
        {
            "loss": Loss(softmax=SoftmaxTerm(weight=0.0), ring=RingTerm(weight=1.0)),
            "evaluation": Evaluation(protocol="classification"),
        },
        "expected verification with a loss that has no agents",
    ),
    ({"loss": Loss(ring=RingTerm(initial_radius=0.0))}, "loss.ring.initial-radius"),
    ({"optimizer": Optimizer(clip=0.0)}, "optimizer.clip: expected a finite number above 0"),
    ({"optimizer": Optimizer(average=1.0)}, "optimizer.average: expected in [0, 1), found 1.0"),
    (
        {"optimizer": Optimizer(groups=Groups(agents=Group(rate=-1.0)))},
        "optimizer.groups.agents.rate: expected a finite number of at least 0, found -1.0",
    ),
    (
        {"loss": Loss(sample_rate=0.5), "optimizer": Optimizer(accumulate=2)},
        "loss.sample-rate: expected 1 with optimizer.accumulate",
    ),
    ({"evaluation": Evaluation(snapshots=3, snapshot_every=10)}, "found [0, 10, 20]"),
    ({"evaluation": Evaluation(snapshots=2, snapshot_every=7)}, "found [13, 20]"),
    ({"seed": -1}, "seed: expected at least 0, found -1"),
    (
        {"evaluation": Evaluation(protocol="classification", mirror="concat")},
        "none, sum or max with the classification protocol",
    ),
    ({"loss": Loss(ring=RingTerm(weight=-1.0))}, "loss.ring.weight: expected a finite"),
]


@pytest.mark.parametrize(("change", "message"), IMPOSSIBLE)
def test_impossible_settings_are_refused(change, message):
    assert check(GOOD) is GOOD
    with pytest.raises(InputError, match=re.escape(message)):
        check(dataclasses.replace(GOOD, **change))
