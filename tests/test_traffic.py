"""The traffic of a step on paper, beside the collectives of the compiled one."""

import math
import re

import jax
import numpy as np
import pytest
from flax import linen as nn

from hyperface import models
from hyperface.config.experiment import Data, Experiment, Model, Optimizer, check
from hyperface.config.loss import CContrastiveTerm, Loss
from hyperface.train import parallel
from hyperface.train.cost import Sizes, Traffic, run_sizes, traffic
from hyperface.train.state import abstract_state, create_state

BATCH, CLASSES, DIM, DEVICES = 64, 1024, 256, 8
LOSSES = {
    "softmax": (Loss(), 1),
    "shared agents": (Loss(c_contrastive=CContrastiveTerm(weight=0.1), share_agents=True), 1),
    "agents of their own": (Loss(c_contrastive=CContrastiveTerm(weight=0.1)), 2),
}


class Linear(nn.Module):
    """The least backbone, which compiles at once."""

    feature_dim: int

    @nn.compact
    def __call__(self, images):
        return nn.Dense(self.feature_dim)(images.reshape(images.shape[0], -1))


def compiled_bytes(text):
    """What one device sends, from the collectives of a compiled program."""
    share = (DEVICES - 1) / DEVICES
    factors = {"all-gather": 1, "all-reduce": 2, "reduce-scatter": DEVICES, "all-to-all": 1}
    total = 0.0
    kinds = "|".join(factors)
    for result, kind in re.findall(rf"= (.*?) ({kinds})(?:-start)?\(", text):
        for dtype, shape in re.findall(r"\b([a-z]+\d*)\[([\d,]*)\]", result):
            width = {"pred": 1, "s32": 4, "u32": 4, "f32": 4}[dtype]
            size = width * math.prod(int(n) for n in shape.split(",") if n)
            total += factors[kind] * size * share
    return total


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("split", [True, False])
def test_it_is_what_the_compiled_step_sends(name, split, monkeypatch):
    monkeypatch.setattr(models, "create", lambda name, feature_dim, **_: Linear(feature_dim))
    loss, terms = LOSSES[name]
    run = Experiment(
        "sent",
        100,
        data=Data(batch_size=BATCH),
        model=Model(feature_dim=DIM),
        loss=loss,
        optimizer=Optimizer(learning_rate=0.1),
        shard_agents=split,
    )
    check(run)
    shape = (8, 8, 1)
    batch = {
        "images": np.zeros((BATCH, *shape), np.float32),
        "labels": np.zeros(BATCH, np.int32),
        "mask": np.ones(BATCH, np.float32),
    }
    state = jax.eval_shape(lambda: create_state(run, CLASSES, batch["images"], batch["labels"]))
    state = parallel.shapes_on_mesh(state, split_classes=split)
    text = parallel.mesh_step(split_classes=split).lower(state, batch).compile().as_text()
    sizes = run_sizes(abstract_state(run, CLASSES, shape), BATCH, shape)
    found = traffic(sizes, DIM, DEVICES, shard_agents=split, terms=terms)
    assert found.total <= compiled_bytes(text) <= 1.1 * found.total


def test_a_sampled_head_sends_its_sample():
    sizes = Sizes(1000, 64, 2048, 2048, 4000, 2000, 1000)
    whole, sampled = (
        traffic(sizes._replace(sample_rate=rate), 512, 8, shard_agents=False) for rate in (1.0, 0.1)
    )
    assert sampled.agents == pytest.approx(0.1 * whole.agents, abs=1)


def test_one_device_sends_nothing():
    sizes = Sizes(1000, 64, 2048, 2048, 4000, 2000, 1000)
    assert traffic(sizes, 512, 1, shard_agents=False) == Traffic(0, 0, 0)
    assert traffic(sizes, 512, 1, shard_agents=True).total == 0
