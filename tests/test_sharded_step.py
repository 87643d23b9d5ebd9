"""The step with agents split over devices: the numbers of one device, an eighth of the memory."""

from dataclasses import replace
from functools import partial

import chex
import jax
import numpy as np
import pytest
from linear_backbone import Linear, linear  # noqa: F401  # The fixture acts on every test here.

from hyperface import models
from hyperface.config.experiment import Experiment, Model, Optimizer, check
from hyperface.config.loss import (
    AdaFaceTerm,
    CContrastiveTerm,
    CenterTerm,
    CTripletTerm,
    Loss,
    MagFaceTerm,
    MarginTerm,
    RingTerm,
    SoftmaxTerm,
    SphereFaceTerm,
)
from hyperface.devices import mesh
from hyperface.errors import InputError
from hyperface.train import parallel
from hyperface.train.state import create_state
from hyperface.train.step import train_step

CLASSES = 24
OFF = SoftmaxTerm(weight=0.0)
LOSSES = {
    "softmax": Loss(softmax=SoftmaxTerm(dropout=0.3)),
    "plain softmax": Loss(softmax=SoftmaxTerm(scale=1.0, normalize="none", bias=True)),
    "c-contrastive": Loss(softmax=OFF, c_contrastive=CContrastiveTerm(weight=1.0)),
    "c-triplet": Loss(softmax=OFF, c_triplet=CTripletTerm(weight=1.0, gradient="caffe")),
    "joint": Loss(c_contrastive=CContrastiveTerm(weight=0.3), share_agents=True),
    "a-softmax": Loss(softmax=OFF, a_softmax=SphereFaceTerm(weight=1.0)),
    "margin": Loss(softmax=OFF, margin_softmax=MarginTerm(1.0, angular_margin=0.3, scale=16.0)),
    "adaface": Loss(softmax=OFF, adaface=AdaFaceTerm(1.0, scale=16.0, momentum=0.2)),
    "magface": Loss(
        softmax=OFF, magface=MagFaceTerm(1.0, scale=16.0, lower_norm=1.0, upper_norm=9.0)
    ),
    "ring": Loss(softmax=SoftmaxTerm(scale=8.0), ring=RingTerm(weight=0.1)),
    "center": Loss(center=CenterTerm(weight=0.01)),
}

PADDED = ("plain softmax", "center")  # tried with padding only


def experiment(loss, **options):
    options.setdefault("optimizer", Optimizer(learning_rate=0.05))
    return check(
        Experiment(
            "split", 100, model=Model(feature_dim=8), loss=loss, shard_agents=True, **options
        )
    )


split = partial(parallel.on_mesh, split_classes=True)


def batches(steps, classes=CLASSES):
    """Random patterns with a mask that leaves the first device without an example."""
    rng = np.random.default_rng(0)
    for _ in range(steps):
        mask = np.ones(16, np.float32)
        mask[[0, 1, 9]] = 0
        yield {
            "images": rng.standard_normal((16, 4, 4, 1)).astype(np.float32),
            "labels": rng.integers(0, classes, 16).astype(np.int32),
            "mask": mask,
        }


def creator(run, classes=CLASSES):
    return lambda images, labels: create_state(run, classes, images, labels)


def one_device(run, steps, classes=CLASSES):
    """The state before, that after some steps, and each step's metrics."""
    (first,) = batches(1, classes)
    before = state = creator(run, classes)(first["images"], first["labels"])
    step, seen = jax.jit(train_step), []
    for batch in batches(steps, classes):
        state, metrics = step(state, batch)
        seen.append(jax.device_get(metrics))
    return before, state, seen


def assert_split_gives(run, steps, before, expected, known, classes=CLASSES):
    state = split(lambda state: state, before)
    step = parallel.mesh_step(split_classes=True)
    for batch, truth in zip(batches(steps, classes), known, strict=True):
        state, metrics = step(state, batch)
        chex.assert_trees_all_close(jax.device_get(metrics), truth, rtol=2e-5, atol=2e-6)
    assert_same_state(parallel.whole_classes(state), expected)


def assert_same_state(found, expected):
    found, expected = (
        jax.device_get((s.params, s.batch_stats, s.opt_state, s.distortion, s.average))
        for s in (found, expected)
    )
    chex.assert_trees_all_close(found, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in LOSSES if name not in PADDED])
def test_twenty_steps_are_those_of_one_device(name):
    run = experiment(LOSSES[name])
    assert_split_gives(run, 20, *one_device(run, 20))


def test_a_fine_tuned_run_starts_with_adafaces_statistics():
    run, (batch,) = experiment(LOSSES["adaface"]), batches(1)
    arguments = (run, CLASSES, batch["images"], batch["labels"])
    params = create_state(*arguments).params
    state = create_state(*arguments, backbone={"params": params["backbone"]})
    assert state.batch_stats == {"head": {"adaface": {"norm_mean": 20.0, "norm_std": 100.0}}}


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_gradient_is_clipped_by_its_whole_length(accumulate):
    optimizer = Optimizer(learning_rate=0.05, clip=0.5, accumulate=accumulate)
    run = experiment(LOSSES["center"], optimizer=optimizer)
    before, expected, known = one_device(run, 6)
    assert any(metrics["gradient_norm"] > 0.5 for metrics in known)
    assert_split_gives(run, 6, before, expected, known)


@pytest.mark.parametrize("name", ["joint", "adaface", "magface"])
def test_twenty_steps_are_those_of_the_replicated_head(name):
    run = experiment(LOSSES[name])
    before, expected, known = one_device(run, 20)
    state = jax.device_put(before, mesh.replicated())
    step = parallel.data_parallel_step()
    for batch, truth in zip(batches(20), known, strict=True):
        state, metrics = step(state, batch)
        chex.assert_trees_all_close(jax.device_get(metrics), truth, rtol=2e-5, atol=2e-6)
    assert_same_state(state, expected)


@pytest.mark.parametrize("name", PADDED)
def test_classes_that_do_not_divide_are_padded_with_rows_that_count_nowhere(name):
    """Nine classes on eight devices take two rows each, seven of them nobody's."""
    run = experiment(LOSSES[name], optimizer=Optimizer(learning_rate=0.05, average=0.9))
    assert_split_gives(run, 5, *one_device(run, 5, classes=9), classes=9)


def test_a_state_made_in_place_is_the_one_that_is_moved():
    run, (batch,) = experiment(LOSSES["center"]), batches(1, 9)
    arguments = (batch["images"], batch["labels"])
    in_place = split(creator(run, 9), *arguments)
    moved = split(lambda state: state, creator(run, 9)(*arguments))
    assert_same_state(in_place, moved)
    assert in_place.distortion.shape == (16,)


def moved_rows(before, after):
    return set(np.flatnonzero(np.any(np.asarray(before) != np.asarray(after), axis=1)))


def test_a_sampled_step_touches_the_rows_drawn_on_each_device():
    run = experiment(Loss(softmax=SoftmaxTerm(scale=5.0), sample_rate=0.1))
    (batch,) = batches(1, 161)  # 21 rows a device, the last with seven of padding
    state = split(creator(run, 161), batch["images"], batch["labels"])
    before = np.array(state.params["head"]["softmax"]["agents"])
    state, metrics = parallel.mesh_step(split_classes=True)(state, batch)
    moved = moved_rows(before, state.params["head"]["softmax"]["agents"])
    own = set(batch["labels"][batch["mask"] > 0])
    assert own <= moved
    assert len(own) + 12 < len(moved) <= len(own) + 8 * 3 + 1
    assert max(moved) < 161
    assert np.isfinite(metrics["loss"])


def test_a_sample_of_all_classes_is_the_full_head():
    full = experiment(Loss(softmax=SoftmaxTerm(scale=5.0), center=CenterTerm(weight=0.01)))
    almost = replace(full, loss=replace(full.loss, sample_rate=0.999))
    (first,) = batches(1)
    ended = []
    for run in (full, almost):
        state = split(creator(run), first["images"], first["labels"])
        step = parallel.mesh_step(split_classes=True)
        for batch in batches(3):
            state, _ = step(state, batch)
        ended.append(state)
    assert_same_state(*ended)


@pytest.fixture(scope="module")
def compiled():
    """The step of 65,536 classes, batch 1,024, compiled for eight devices."""
    run = experiment(LOSSES["joint"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "create", lambda name, feature_dim, **_: Linear(feature_dim))
        images = jax.ShapeDtypeStruct((1024, 4, 4, 1), np.float32)
        labels = jax.ShapeDtypeStruct((1024,), np.int32)
        state = jax.eval_shape(creator(run, 65536), images, labels)
        shapes = parallel.shapes_on_mesh(state, split_classes=True)
        batch = {"images": images, "labels": labels, "mask": images.update(shape=(1024,))}
        return parallel.mesh_step(split_classes=True).lower(shapes, batch).compile()


def test_no_array_of_the_program_is_batch_by_classes(compiled):
    text = compiled.as_text()
    assert "f32[8192,8]" in text  # a device's agents
    for shape in ("[65536", ",65536", "[1024,8192]", "[8192,1024]", "[128,8192]"):
        assert shape not in text
    assert compiled.memory_analysis().temp_size_in_bytes < 1024 * 8192 * 4


def test_a_device_holds_an_eighth_of_the_agents(compiled):
    """Agents and momentum of 8 numbers a class, the distortion of one; the rest is small."""
    found = compiled.memory_analysis()
    a_class = (8 + 8 + 1) * 4
    for size in (found.argument_size_in_bytes, found.output_size_in_bytes):
        assert 0 <= size - a_class * 65536 / 8 < 20_000


def test_features_are_gathered_and_their_gradient_is_scattered(compiled):
    text = compiled.as_text()
    assert "f32[1024,8]{1,0} all-gather(" in text
    assert "f32[128,8]{1,0} reduce-scatter(" in text
    assert "f32[1024,8]{1,0} all-reduce(" not in text


def test_what_cannot_be_split_is_refused():
    with pytest.raises(InputError, match=r"each of the 8 devices, found 7. Leave it out"):
        mesh.check_classes(7)
    with pytest.raises(InputError, match="shard-agents: expected False with a loss that has neith"):
        experiment(Loss(softmax=OFF, ring=RingTerm(weight=0.1)))
