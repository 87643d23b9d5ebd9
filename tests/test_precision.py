"""Products of features and agents are whole float32 on every device.

Accelerators round the operands of float32 products to fewer digits unless the program forbids it:
cosines would be off by 1e-3 there, which the CPU of the tests never shows. So the programs are
looked at.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hyperface import losses
from hyperface.metrics import cosine, search
from hyperface.normalize import cosine_similarity

FEATURES, AGENTS = np.ones((4, 8), np.float32), np.eye(6, 8, dtype=np.float32)
LABELS = np.int32([0, 1, 0, 5])

CLASSWISE = {
    "softmax": lambda *a, **e: losses.softmax(*a, scale=9.0, **e),
    "c_contrastive": losses.c_contrastive,
    "c_triplet": losses.c_triplet,
    "a_softmax": losses.a_softmax,
    "l_softmax": losses.l_softmax,
    "margin_softmax": lambda *a, **e: losses.margin_softmax(*a, scale=9.0, **e),
    "magface": losses.magface,
    "adaface": lambda *a, **e: losses.adaface(*a, statistics=losses.NormStatistics(), **e),
}
ENGINES = {
    "whole": {},
    "blocks": {"block_size": 3},
    "kept": {"block_size": 3, "memory_budget": 2**20},
    "mixed": {"precision": "mixed"},
}
HIGHEST = jax.lax.Precision.HIGHEST


def products(jaxpr) -> Iterator:
    """Yields the precision of each matrix product of a program and of the programs inside it."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation.params["precision"]
        for value in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
        ):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from products(inner)


def assert_highest(function, *arguments):
    assert precisions(function, *arguments) == {HIGHEST}


def precisions(function, *arguments):
    found = list(products(jax.make_jaxpr(function)(*arguments).jaxpr))
    assert found
    return {one for pair in found for one in pair}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", CLASSWISE)
def test_class_wise_losses(name, engine):
    assert_highest(value_and_gradients(name, **ENGINES[engine]), FEATURES, AGENTS)


@pytest.mark.parametrize("name", ["softmax", "c_contrastive"])
def test_tf32_is_asked_for_in_every_product(name):
    program = value_and_gradients(name, block_size=3, precision="tf32")
    assert precisions(program, FEATURES, AGENTS) == {jax.lax.Precision.HIGH}


def value_and_gradients(name, **engine):
    def program(features, agents):
        loss = CLASSWISE[name]
        value, pull = jax.vjp(lambda f, w: loss(f, w, LABELS, **engine), features, agents)
        return value, pull(jnp.ones_like(value))

    return program


@pytest.mark.parametrize("name", ["batch_contrastive", "batch_triplet"])
def test_losses_over_a_batch(name):
    loss = getattr(losses, name)
    assert_highest(jax.value_and_grad(lambda f: jnp.sum(loss(f, LABELS))), FEATURES)


def test_cosines():
    assert_highest(cosine_similarity, FEATURES, AGENTS)
    assert_highest(cosine._product, FEATURES, AGENTS)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_the_search_in_a_gallery(dtype):
    block = np.ones((search.GROUP, 8), np.float32)
    assert_highest(search._score, FEATURES.astype(dtype), block)
