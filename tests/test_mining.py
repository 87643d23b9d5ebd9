"""Mined pairs and triplets against loops over them."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from hyperface import losses
from hyperface.losses import _mining

LABELS = np.array([0, 1, 0, 2, 1, 0, 2])
MININGS = ("all", "violating", "hardest")


@pytest.fixture
def features(rng):
    return rng.standard_normal((7, 4))


def distances(features):
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    return np.sum((unit[:, None] - unit[None]) ** 2, axis=2)


def mean(values):
    return np.mean(values) if len(values) else 0.0


def looped(features, labels, margin, mining, kind):
    d, found = distances(features), []
    for i in range(len(labels)):
        same = [d[i, j] for j in range(len(labels)) if j != i and labels[j] == labels[i]]
        other = [d[i, j] for j in range(len(labels)) if labels[j] != labels[i]]
        if mining == "hardest":
            same, other = sorted(same)[-1:], sorted(other)[:1]
        if kind == "contrastive":
            hinges = [max(0, margin - x) for x in other]
            if mining == "violating":
                hinges = [h for h in hinges if h > 0]
            found.append(mean(same) + mean(hinges))
        else:
            hinges = [max(0, margin + p - n) for p, n in itertools.product(same, other)]
            if mining == "violating":
                hinges = [h for h in hinges if h > 0]
            found.append(mean(hinges))
    return found


LOSSES = {"contrastive": losses.batch_contrastive, "triplet": losses.batch_triplet}


@pytest.mark.parametrize("mining", MININGS)
@pytest.mark.parametrize("kind", LOSSES)
def test_equals_a_loop_and_its_gradient_finite_differences(features, mining, kind, monkeypatch):
    monkeypatch.setattr(_mining, "TRIPLET_BYTES", 3 * 49 * 8)  # three anchors at once, of seven
    with jax.enable_x64(True):
        found = LOSSES[kind](features, LABELS, margin=1.7, mining=mining)
        expected = looped(features, LABELS, 1.7, mining, kind)
        np.testing.assert_allclose(found, expected, rtol=1e-12)
        check_grads(
            lambda f: LOSSES[kind](f, LABELS, margin=1.7, mining=mining),
            (jnp.asarray(features),),
            order=1,
            modes=["rev"],
        )


@pytest.mark.parametrize("mining", MININGS)
@pytest.mark.parametrize("kind", LOSSES)
def test_padding_is_in_no_pair(features, mining, kind):
    counted = np.array([True] * 5 + [False] * 2)
    found = LOSSES[kind](features, LABELS, margin=1.7, mining=mining, counted=counted)
    expected = looped(features[:5], LABELS[:5], 1.7, mining, kind)
    np.testing.assert_allclose(found[:5], expected, rtol=1e-5)
    np.testing.assert_array_equal(found[5:], 0.0)


@pytest.mark.parametrize("labels", [np.zeros(7, int), np.arange(7)])
@pytest.mark.parametrize("mining", MININGS)
@pytest.mark.parametrize("kind", LOSSES)
def test_one_class_only_and_nothing_alike(features, labels, mining, kind):
    def total(f):
        return jnp.sum(LOSSES[kind](f, labels, margin=1.7, mining=mining))

    value, gradient = jax.jit(jax.value_and_grad(total))(jnp.asarray(features, jnp.float32))
    expected = np.sum(looped(features, labels, 1.7, mining, kind))
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert np.all(np.isfinite(gradient))


def test_all_triplets_are_never_held_at_once():
    shape = jax.ShapeDtypeStruct((512, 8), "f4")
    total = jax.grad(lambda f: jnp.sum(losses.batch_triplet(f, np.arange(512) // 4)))
    memory = jax.jit(total).lower(shape).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 96 * 2**20  # 512 MiB for each array of all triplets


def test_misuse_says_what_was_expected(features):
    with pytest.raises(ValueError, match=r"mining in .*found 'semi'"):
        losses.batch_triplet(features, LABELS, mining="semi")
    with pytest.raises(TypeError, match="integer labels, found dtype float"):
        losses.batch_contrastive(features, LABELS.astype(float))
    with pytest.raises(TypeError, match="counted of dtype bool"):
        losses.batch_contrastive(features, LABELS, counted=np.ones(7))
    with pytest.raises(ValueError, match=r"labels \[7\], one per feature, found shape \(6,\)"):
        losses.batch_triplet(features, LABELS[:6])
