"""The memory estimate, worked by hand, and beside what XLA asks for."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from hyperface.config.experiment import Data, Experiment, Model, Optimizer
from hyperface.config.loss import Loss, SoftmaxTerm
from hyperface.errors import InputError
from hyperface.train import cost, parallel
from hyperface.train.cost import (
    Memory,
    Sizes,
    check_memory,
    devices_that_do,
    memory_estimate,
    run_sizes,
)
from hyperface.train.state import abstract_state
from hyperface.train.step import train_step

MIB = 2**20
# 2^20 classes of 512 numbers, with momentum; a backbone of 100 MiB; 10 MiB an image.
RUN = Sizes(2**20, 64, 2048, 2048, 200 * MIB, 100 * MIB, 10 * MIB)


@pytest.fixture
def blocks_of_four_mebibytes(monkeypatch):
    """The engine chooses its blocks by the machine's cache."""
    monkeypatch.setattr(cost, "block_bytes", lambda: 4 * MIB)


@pytest.mark.usefixtures("blocks_of_four_mebibytes")
def test_by_hand_on_one_device():
    found = memory_estimate(RUN, 1, shard_agents=False)
    # 4 x 64 x 2^20 bytes of similarities are 256 MiB, beyond one block: blocks of 4 MiB.
    assert found == Memory(2048 * MIB, 2048 * MIB, 2148 * MIB, 200 * MIB, 640 * MIB, 12 * MIB)
    assert found.total == 7096 * MIB
    assert str(found).startswith("about 7,096 MiB a device: agents 2,048 MiB, agent state 2,048")


@pytest.mark.usefixtures("blocks_of_four_mebibytes")
def test_by_hand_on_eight():
    """Split agents are an eighth; replicated ones are whole, and the images an eighth."""
    split = memory_estimate(RUN, 8, shard_agents=True)
    assert split == Memory(256 * MIB, 256 * MIB, 356 * MIB, 200 * MIB, 80 * MIB, 12 * MIB)
    whole = memory_estimate(RUN, 8, shard_agents=False)
    assert (whole.agents, whole.activations) == (2048 * MIB, 80 * MIB)


def test_samples_shorten_the_gradient_and_a_budget_keeps_similarities():
    run = RUN._replace(sample_rate=0.25, memory_budget=256 * MIB)
    found = memory_estimate(run, 1, shard_agents=False)
    assert found.gradients == (512 + 100) * MIB
    assert found.similarities == 3 * 256 * MIB


@pytest.mark.usefixtures("blocks_of_four_mebibytes")
def test_what_cannot_fit_is_refused_with_the_devices_that_would_do():
    """Of 1,536 MiB 4 devices need 512 + 512 + 612 + 200 + 160 + 12, and 8 need 1,160."""
    assert devices_that_do(RUN, 1536 * MIB) == 8
    with pytest.raises(
        InputError, match=r"1,048,576 classes on 2, .* --shard-agents on 8 devices would do"
    ):
        check_memory(RUN, 2, 1536 * MIB, shard_agents=False)
    with pytest.raises(InputError, match=r"agents 1,024 MiB.* MiB\. 8 devices would do"):
        check_memory(RUN, 2, 1536 * MIB, shard_agents=True)
    assert check_memory(RUN, 8, 1536 * MIB, shard_agents=True).total == 1160 * MIB
    with pytest.raises(InputError, match="No number of devices that splits 64 images does"):
        check_memory(RUN, 8, 200 * MIB, shard_agents=True)


@pytest.mark.usefixtures("blocks_of_four_mebibytes")
def test_agents_that_are_updated_in_the_sweep_have_no_gradient():
    """Three blocks of 4 MiB in place of 2,048 MiB; the backbone's 100 MiB stay."""
    found = memory_estimate(RUN._replace(agents_in_sweep=2048), 1, shard_agents=False)
    assert found.gradients == 112 * MIB
    assert found.agents == found.agent_state == 2048 * MIB


def test_nothing_is_kept_for_the_backward_pass_of_frozen_first_layers():
    run = Experiment("memory", steps=1, model=Model(name="sphereface-mini", feature_dim=8))
    frozen = replace(run, optimizer=Optimizer(frozen=("conv[12]", "prelu[12]", "block[12]_*")))
    kept = [run_sizes(abstract_state(e, 5, (32, 28, 3)), 16, (32, 28, 3)) for e in (run, frozen)]
    assert kept[1].activations < 0.5 * kept[0].activations


NEAR = 1.3
"""Factor within which the estimate is of what XLA takes, either way."""


@pytest.mark.parametrize("agents_update", ["whole", "in-sweep"])
@pytest.mark.parametrize("layout", ["one device", "whole on eight", "split on eight"])
def test_the_estimate_is_near_what_the_compiled_step_takes(layout, agents_update):
    run = Experiment(
        "memory",
        steps=1,
        data=Data(batch_size=16),
        model=Model(feature_dim=32),
        loss=Loss(softmax=SoftmaxTerm(scale=8.0)),
        optimizer=Optimizer(agents_update=agents_update),
    )
    state = abstract_state(run, 20_000, (32, 28, 3))
    sizes = run_sizes(state, 16, (32, 28, 3))
    assert (sizes.class_params, sizes.class_state) == (128, 128 + 4)
    batch = {
        "images": jax.ShapeDtypeStruct((16, 32, 28, 3), np.float32),
        "labels": jax.ShapeDtypeStruct((16,), np.int32),
        "mask": jax.ShapeDtypeStruct((16,), np.float32),
    }
    devices, split = (1 if layout == "one device" else 8), layout == "split on eight"
    lower = jax.jit(train_step, donate_argnums=0).lower
    if devices > 1:
        lower = parallel.mesh_step(split_classes=split).lower
        state = parallel.shapes_on_mesh(state, split_classes=split)
    found = lower(state, batch).compile().memory_analysis()
    peak = found.argument_size_in_bytes + found.temp_size_in_bytes
    estimate = memory_estimate(sizes, devices, shard_agents=split).total
    print(f"{layout}: {estimate / peak:.2f} of {peak / MIB:.1f} MiB a device")
    assert 1 / NEAR < estimate / peak < NEAR
