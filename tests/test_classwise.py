"""The engine: every term, block size, number of shards and dtype against the plain formulas."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec
from jax.test_util import check_grads
from pages import run_examples

from hyperface import losses, reference
from hyperface.losses import block_sizes

BATCH, CLASSES, DIM = 6, 24, 5

# name -> (ours, plain), each (features, agents, labels, **engine options) -> [batch].
TERMS = (
    {
        "softmax": (partial(losses.softmax, scale=9.0), partial(reference.softmax, scale=9.0)),
        "softmax at 200": (
            partial(losses.softmax, scale=200.0),
            partial(reference.softmax, scale=200.0),
        ),
        "softmax, agents": (
            partial(losses.softmax, normalize="agents"),
            partial(reference.softmax, normalize="agents"),
        ),
        "softmax, none": (
            partial(losses.softmax, normalize="none"),
            partial(reference.softmax, normalize="none"),
        ),
        "c_contrastive": (losses.c_contrastive, reference.c_contrastive),
        "c_contrastive, m = 3": (
            partial(losses.c_contrastive, margin=3.0),
            partial(reference.c_contrastive, margin=3.0),
        ),
        "c_triplet": (losses.c_triplet, reference.c_triplet),
        "c_triplet, hardest, pull": (
            partial(losses.c_triplet, negatives="hardest", always_pull=True),
            partial(reference.c_triplet, negatives="hardest", always_pull=True),
        ),
    }
    | {
        f"a_softmax, m = {m}": (
            partial(losses.a_softmax, margin=m, blend=blend),
            partial(reference.a_softmax, margin=m, blend=blend),
        )
        for m, blend in ((1, 0.0), (2, 0.5), (3, 0.0), (4, 5.0))
    }
    | {
        "l_softmax": (losses.l_softmax, reference.l_softmax),
        "arcface": (
            partial(losses.margin_softmax, scale=64.0, angular_margin=0.5),
            partial(reference.margin_softmax, scale=64.0, angular_margin=0.5),
        ),
        "cosface": (
            partial(losses.margin_softmax, scale=64.0, cosine_margin=0.35),
            partial(reference.margin_softmax, scale=64.0, cosine_margin=0.35),
        ),
        "combined": (
            partial(
                losses.margin_softmax,
                scale=30.0,
                angular_multiplier=1.2,
                angular_margin=0.3,
                cosine_margin=0.2,
            ),
            partial(
                reference.margin_softmax,
                scale=30.0,
                angular_multiplier=1.2,
                angular_margin=0.3,
                cosine_margin=0.2,
            ),
        ),
    }
)
# The released gradients that are true ones, of rows that count as unit vectors already.
TERMS |= {
    "softmax, released": (
        partial(losses.softmax, scale=9.0, gradient="caffe"),
        partial(reference.softmax, scale=9.0, gradient="caffe"),
    ),
    "c_contrastive, released": (
        partial(losses.c_contrastive, margin=3.0, gradient="caffe"),
        partial(reference.c_contrastive, margin=3.0, gradient="caffe"),
    ),
}
MAIN_TERMS = [name for name in TERMS if name not in {f"a_softmax, m = {m}" for m in (1, 2, 3)}]
# Relative to the largest gradient. float64 shows the rule; float32 its rounding, which the largest
# scale of 200 multiplies; bfloat16 that of the operands, three digits. TF32 has three more bits.
TOLERANCES = {"float64": 1e-12, "float32": 3e-5, "tf32": 4e-3, "mixed": 3e-2, "bf16": 3e-2}


def problem(seed=0, dtype=np.float64, classes=CLASSES):
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((BATCH, DIM)).astype(dtype)
    agents = (3 * rng.standard_normal((classes, DIM))).astype(dtype)
    labels = rng.integers(0, classes, BATCH).astype(np.int32)
    return features, agents, labels, rng.standard_normal(BATCH).astype(dtype)


@partial(jax.jit, static_argnums=0)
def value_and_gradients(loss, features, agents, labels, cotangent):
    value, pull = jax.vjp(lambda f, w: loss(f, w, labels), features, agents)
    return value, *pull(cotangent)


def assert_close(found, expected, tolerance):
    for mine, truth in zip(found, expected, strict=True):
        truth = np.asarray(truth, np.float64)
        assert mine.shape == truth.shape
        np.testing.assert_allclose(mine, truth, rtol=0, atol=tolerance * max(1, abs(truth).max()))


@pytest.mark.parametrize("block_size", [None, 1, 7, 100])
@pytest.mark.parametrize("name", TERMS)
def test_every_block_size_gives_the_formula(name, block_size):
    ours, plain = TERMS[name]
    with jax.enable_x64(True):
        arguments = [jnp.asarray(x) for x in problem()]
        expected = value_and_gradients(plain, *arguments)
        found = value_and_gradients(partial(ours, block_size=block_size), *arguments)
        assert all(x.dtype == jnp.float64 for x in found)
        assert_close(found, expected, TOLERANCES["float64"])


@pytest.mark.parametrize("block_size", [None, 1, 2, 3, 5])
@pytest.mark.parametrize("budget", [0, 2**20])
def test_of_equally_hard_agents_the_lowest_class_moves_at_any_block_size(block_size, budget):
    """Else the run is another one for another block size, or moves more than one agent."""
    agents = np.float32([[1, 0], [0, -1], [0.6, 0.8], [0.6, 0.8], [0, -1], [0.6, 0.8]])
    features, labels = np.float32([[2, 0]]), np.zeros(1, np.int32)

    def total(agents):
        options = {"block_size": block_size, "memory_budget": budget}
        loss = losses.c_triplet(
            features, agents, labels, margin=2.0, negatives="hardest", **options
        )
        return jnp.sum(loss)

    found = jax.jit(jax.grad(total))(agents)
    assert np.flatnonzero(np.any(found != 0, axis=1)).tolist() == [2]


@pytest.mark.parametrize("closest", [1, 2, 3])
def test_a_large_scale_does_not_overflow_whichever_block_has_the_closest_class(closest):
    """Sums are relative to the largest logit so far: float32 ends before e^400."""
    agents, labels = np.float32([[-1, 0]] * 4), np.zeros(1, np.int32)
    agents[closest] = [1, 0]

    def total(features, agents):
        return jnp.sum(losses.softmax(features, agents, labels, scale=200.0, block_size=1))

    found, slopes = jax.jit(jax.value_and_grad(total, argnums=(0, 1)))(np.float32([[1, 0]]), agents)
    np.testing.assert_allclose(found, 400.0, rtol=1e-6)
    assert all(np.isfinite(slope).all() for slope in slopes)


@pytest.mark.parametrize("name", ["c_triplet", "c_contrastive"])
@pytest.mark.parametrize("block_size", [None, 1])
def test_an_agent_exactly_at_the_margin_does_not_violate(name, block_size):
    """It has no slope: a class that the margin holds would be pushed on for ever."""
    agents = np.float32([[0, 1], [0, -1], [-1, 0]])  # The second is at cosine 0 to the feature.
    margin = {"c_triplet": 0.0, "c_contrastive": 2.0}[name]

    def total(features, agents):
        labels = np.zeros(1, np.int32)
        loss = getattr(losses, name)(features, agents, labels, margin=margin, block_size=block_size)
        return jnp.sum(loss)

    to_features, to_agents = jax.jit(jax.grad(total, argnums=(0, 1)))(np.float32([[1, 0]]), agents)
    np.testing.assert_array_equal(to_agents[1:], 0.0)
    np.testing.assert_array_equal(to_features, [[0.0, 0.0 if name == "c_triplet" else -2.0]])


@pytest.mark.parametrize("name", MAIN_TERMS)
def test_kept_similarities_give_the_formula(name):
    ours, plain = TERMS[name]
    with jax.enable_x64(True):
        arguments = [jnp.asarray(x) for x in problem()]
        expected = value_and_gradients(plain, *arguments)
        loss = partial(ours, block_size=7, memory_budget=2**20)
        assert_close(value_and_gradients(loss, *arguments), expected, TOLERANCES["float64"])


@pytest.mark.parametrize("precision", ["float32", "tf32", "mixed", "bf16"])
@pytest.mark.parametrize("name", ["softmax", "c_contrastive, m = 3"])
def test_every_precision_stays_within_its_tolerance(name, precision):
    ours, plain = TERMS[name]
    with jax.enable_x64(True):
        expected = value_and_gradients(plain, *(jnp.asarray(x) for x in problem()))
    arguments = problem(dtype=np.float32)
    loss = partial(ours, block_size=7, precision=precision)
    found = value_and_gradients(loss, *map(jnp.asarray, arguments))
    assert all(x.dtype == jnp.float32 for x in found)
    assert_close(found, expected, TOLERANCES[precision])


def test_blocks_are_larger_on_an_accelerator(monkeypatch):
    """Else a GPU would spend its time on launching the kernels of small blocks."""
    classes = 2**20
    assert 4 * 256 * block_sizes.choose_block_size(None, 256, classes) <= 4 * 2**20
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert 4 * 256 * block_sizes.choose_block_size(None, 256, classes) == 64 * 2**20
    # What fits one block is one block, whose similarities are then saved.
    assert block_sizes.choose_block_size(None, 256, 65_536) == 65_536
    assert block_sizes.one_block_bytes() == 64 * 2**20


def test_bf16_runs_at_the_block_size_of_real_problems():
    """XLA's CPU backend lacks some layouts of bf16 matmuls, which small blocks do not meet."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((32, 64)).astype(np.float32)
    agents = rng.standard_normal((9000, 64)).astype(np.float32)
    labels, cotangent = np.arange(32, dtype=np.int32), np.ones(32, np.float32)
    loss = partial(losses.softmax, scale=10.0, block_size=4096)
    expected = value_and_gradients(loss, features, agents, labels, cotangent)
    found = value_and_gradients(
        partial(loss, precision="bf16"), features, agents, labels, cotangent
    )
    assert_close(found, expected, TOLERANCES["bf16"])


@pytest.mark.parametrize(
    ("shards", "block_size"), [(1, None), (2, None), (2, 5), (8, None), (8, 2)]
)
@pytest.mark.parametrize("name", MAIN_TERMS)
def test_sharded_agents_equal_whole_ones(name, block_size, shards):
    ours, plain = TERMS[name]
    features, agents, labels, cotangent = problem(dtype=np.float32)
    mesh = jax.make_mesh(
        (shards,), ("classes",), axis_types=(AxisType.Auto,), devices=jax.devices()[:shards]
    )
    everywhere, rows = PartitionSpec(), PartitionSpec("classes")

    @partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(everywhere, rows, everywhere, everywhere),
        out_specs=(PartitionSpec("classes"), PartitionSpec("classes"), rows),
        check_vma=False,
    )
    def sharded(features, agents, labels, cotangent):
        loss = partial(ours, block_size=block_size, axis_name="classes")
        value, to_features, to_agents = value_and_gradients(
            loss, features, agents, labels, cotangent
        )
        return value[None], to_features[None], to_agents

    value, to_features, to_agents = jax.jit(sharded)(features, agents, labels, cotangent)
    with jax.enable_x64(True):
        expected = value_and_gradients(plain, *(jnp.asarray(x) for x in problem()))
    for device in range(shards):  # Every device must have the same loss and the whole gradient.
        found = (value[device], to_features[device], to_agents)
        assert_close(found, expected, TOLERANCES["float32"])


@pytest.mark.parametrize("block_size", [None, 5])
@pytest.mark.parametrize(
    "name", ["softmax at 200", "c_triplet, hardest, pull", "a_softmax, m = 4", "l_softmax"]
)
def test_a_batch_may_be_split_over_the_same_devices(name, block_size):
    """Each device then has its examples' losses and gradients."""
    ours, plain = TERMS[name]
    rows = PartitionSpec("classes")
    mesh = jax.make_mesh((2,), ("classes",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    loss = partial(ours, block_size=block_size, axis_name="classes", split_batch=True)
    split = jax.shard_map(
        partial(value_and_gradients, loss),
        mesh=mesh,
        in_specs=rows,
        out_specs=rows,
        check_vma=False,
    )
    found = jax.jit(split)(*problem(dtype=np.float32))
    with jax.enable_x64(True):
        expected = value_and_gradients(plain, *(jnp.asarray(x) for x in problem()))
    assert_close(found, expected, TOLERANCES["float32"])


def test_a_batch_needs_an_axis_to_be_split_over():
    features, agents, labels, _ = problem(dtype=np.float32)
    with pytest.raises(ValueError, match="expected an axis_name to split the batch over"):
        losses.c_triplet(features, agents, labels, split_batch=True)


def test_agents_may_be_sharded_under_pmap():
    features, agents, labels, cotangent = problem(dtype=np.float32)
    loss = partial(losses.softmax, scale=9.0, axis_name="classes")
    value, to_features, to_agents = jax.pmap(
        partial(value_and_gradients, loss), axis_name="classes", in_axes=(None, 0, None, None)
    )(features, agents.reshape(8, 3, DIM), labels, cotangent)
    expected = value_and_gradients(
        partial(losses.softmax, scale=9.0), *map(jnp.asarray, (features, agents, labels, cotangent))
    )
    found = (value[3], to_features[5], to_agents.reshape(CLASSES, DIM))
    assert_close(found, expected, TOLERANCES["float32"])


@pytest.mark.parametrize("name", [name for name in TERMS if "released" not in name])
def test_gradients_equal_finite_differences_in_float64(name):
    ours, _ = TERMS[name]
    with jax.enable_x64(True):
        features, agents, labels, _ = problem(seed=1)
        check_grads(
            jax.jit(lambda f, w: ours(f, w, labels, block_size=7)),
            (jnp.asarray(features), jnp.asarray(agents)),
            order=1,
            modes=["rev"],
            rtol=1e-5,
        )


@pytest.mark.parametrize("block_size", [None, 7])
def test_hyper_parameters_are_differentiable(block_size):
    with jax.enable_x64(True):
        features, agents, labels, cotangent = (jnp.asarray(x) for x in problem())
        bias = jnp.linspace(-1.0, 1.0, CLASSES)
        cases = (
            (
                lambda s, b, e: losses.softmax(
                    features, agents, labels, scale=s, bias=b, allow_normalized_bias=True, **e
                ),
                lambda s, b: reference.softmax(
                    features, agents, labels, scale=s, bias=b, allow_normalized_bias=True
                ),
                (jnp.asarray(4.0), bias),
            ),
            (
                lambda m, _, e: losses.c_contrastive(features, agents, labels, margin=m, **e),
                lambda m, _: reference.c_contrastive(features, agents, labels, margin=m),
                (jnp.asarray(1.3), bias),
            ),
            (
                lambda m, _, e: losses.c_triplet(features, agents, labels, margin=m, **e),
                lambda m, _: reference.c_triplet(features, agents, labels, margin=m),
                (jnp.asarray(1.1), bias),
            ),
        )
        for ours, plain, arguments in cases:
            engine = {"block_size": block_size}
            found = jax.vjp(partial(ours, e=engine), *arguments)[1](cotangent)
            expected = jax.vjp(plain, *arguments)[1](cotangent)
            assert_close(found, expected, 1e-11)


@pytest.mark.parametrize("block_size", [None, 7])
def test_joint_equals_the_losses_one_by_one(block_size):
    terms = (losses.Softmax(9.0), losses.CContrastive(1.5), losses.CTriplet(0.8, "hardest"))
    with jax.enable_x64(True):
        features, agents, labels, cotangent = (jnp.asarray(x) for x in problem())

        def together(f, w):
            found = losses.joint(terms, f, w, labels, block_size=block_size)
            return sum(k * loss for k, loss in zip((1.0, 0.1, 2.0), found, strict=True))

        def apart(f, w):
            return (
                reference.softmax(f, w, labels, scale=9.0)
                + 0.1 * reference.c_contrastive(f, w, labels, margin=1.5)
                + 2.0 * reference.c_triplet(f, w, labels, negatives="hardest")
            )

        found, pull = jax.vjp(together, features, agents)
        expected, expected_pull = jax.vjp(apart, features, agents)
        assert_close((found, *pull(cotangent)), (expected, *expected_pull(cotangent)), 1e-12)


HINGES = (losses.CContrastive(1.5), losses.CTriplet(0.8), losses.CTriplet(0.8, always_pull=True))


@pytest.mark.parametrize("terms", [*((term,) for term in HINGES), HINGES, (losses.Softmax(9.0),)])
@pytest.mark.parametrize("block_size", [None, 7])
def test_the_sum_inside_equals_the_sum_outside(terms, block_size):
    """Value and every gradient, of features, agents, hyper-parameters and weights."""
    with jax.enable_x64(True):
        features, agents, labels, _ = (jnp.asarray(x) for x in problem())
        rng = np.random.default_rng(2)
        weights = tuple(jnp.asarray(rng.standard_normal(BATCH)) for _ in terms)

        def inside(terms, f, w, weights):
            return 3.0 * losses.weighted_sum(terms, f, w, labels, weights, block_size=block_size)

        def outside(terms, f, w, weights):
            found = losses.joint(terms, f, w, labels)
            return 3.0 * sum(jnp.sum(k * loss) for k, loss in zip(weights, found, strict=True))

        terms = jax.tree.map(jnp.asarray, terms)
        arguments = (terms, features, agents, weights)
        found = jax.jit(jax.value_and_grad(inside, argnums=(0, 1, 2, 3)))(*arguments)
        expected = jax.jit(jax.value_and_grad(outside, argnums=(0, 1, 2, 3)))(*arguments)
        assert_close(jax.tree.leaves(found), jax.tree.leaves(expected), 1e-12)
        np.testing.assert_allclose(inside(*arguments), expected[0], rtol=1e-12)


def test_the_sum_inside_is_sharded_too():
    features, agents, labels, weights = problem(dtype=np.float32)
    terms = (losses.CContrastive(1.5),)

    def gradients(features, agents, labels, weights, axis_name=None):
        def total(f, w):
            return losses.weighted_sum(terms, f, w, labels, (weights,), axis_name=axis_name)

        value, (to_features, to_agents) = jax.jit(jax.value_and_grad(total, argnums=(0, 1)))(
            features, agents
        )
        return value, to_features, to_agents

    value, to_features, to_agents = jax.pmap(
        partial(gradients, axis_name="classes"), axis_name="classes", in_axes=(None, 0, None, None)
    )(features, agents.reshape(8, 3, DIM), labels, weights)
    found = (value[2], to_features[6], to_agents.reshape(CLASSES, DIM))
    expected = gradients(*map(jnp.asarray, (features, agents, labels, weights)))
    assert_close(found, expected, TOLERANCES["float32"])


@pytest.mark.parametrize("terms", [(losses.CContrastive(1.5),), (losses.Softmax(9.0),)])
def test_the_sum_inside_of_a_split_batch(terms):
    """Value and hyper-parameters' gradients are parts, which add up."""
    features, agents, labels, weights = problem(dtype=np.float32)
    terms = jax.tree.map(jnp.float32, terms)

    def gradients(features, agents, labels, weights, **engine):
        def total(terms, f, w):
            return losses.weighted_sum(terms, f, w, labels, (weights,), **engine)

        value, found = jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2)))(
            terms, features, agents
        )
        return value, *jax.tree.leaves(found)

    def parts(*arguments):
        return gradients(*arguments, axis_name="classes", split_batch=True)

    arguments = (features, agents, labels, weights)
    split = [x.reshape(2, -1, *x.shape[1:]) for x in arguments]
    value, to_term, to_features, to_agents = jax.pmap(parts, axis_name="classes")(*split)
    found = (
        value.sum(),
        to_term.sum(),
        to_features.reshape(BATCH, DIM),
        to_agents.reshape(CLASSES, DIM),
    )
    expected = gradients(*map(jnp.asarray, arguments))
    assert_close(found, expected, TOLERANCES["float32"])


def test_weights_must_fit():
    features, agents, labels, weights = problem(dtype=np.float32)
    with pytest.raises(
        ValueError, match=r"weights \[6\] for each of 1 terms, found shapes \[\(5,\)\]"
    ):
        losses.weighted_sum((losses.CContrastive(),), features, agents, labels, (weights[:5],))


def test_transformations_agree():
    features, agents, labels, cotangent = problem(dtype=np.float32)

    def gradient(features, labels, cotangent):
        loss = partial(losses.c_triplet, block_size=7)
        return value_and_gradients(loss, features, agents, labels, cotangent)[1]

    expected = gradient(features, labels, cotangent)
    rows = jax.vmap(lambda f, y, g: gradient(f[None], y[None], g[None])[0])
    remat = jax.checkpoint(lambda f: losses.c_triplet(f, agents, labels, block_size=7))
    for found in (
        jax.jit(gradient)(features, labels, cotangent),
        jax.jit(rows)(features, labels, cotangent),
        jax.jit(lambda f, g: jax.vjp(remat, f)[1](g)[0])(features, cotangent),
        jax.jit(jax.grad(lambda f: jnp.sum(cotangent * jax.vmap(
            lambda row, y: losses.c_triplet(row[None], agents, y[None], block_size=7)[0]
        )(f, labels))))(features),
    ):  # fmt: skip
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("classes", [1, 2])
def test_one_and_two_classes(name, classes):
    ours, plain = TERMS[name]
    with jax.enable_x64(True):
        arguments = [jnp.asarray(x) for x in problem(classes=classes)]
        expected = value_and_gradients(plain, *arguments)
        assert_close(value_and_gradients(ours, *arguments), expected, 1e-12)


@pytest.mark.parametrize("name", TERMS)
def test_hard_points_stay_finite(name):
    ours, _ = TERMS[name]
    agents = jnp.eye(4)
    features = jnp.concatenate(
        [jnp.zeros((1, 4)), agents[:1], -agents[:1], 1e4 * agents[:1], 1e-6 * agents[:1]]
    )
    labels = jnp.zeros(5, jnp.int32)
    found = value_and_gradients(partial(ours, block_size=3), features, agents, labels, jnp.ones(5))
    assert all(np.all(np.isfinite(x)) for x in found)


def test_a_label_out_of_range_is_nan_on_every_shard():
    features, agents, labels, _ = problem(dtype=np.float32)
    labels = np.where(np.arange(BATCH) == 2, CLASSES, labels).astype(np.int32)
    loss = partial(losses.c_contrastive, axis_name="classes")
    found = jax.pmap(loss, axis_name="classes", in_axes=(None, 0, None))(
        features, agents.reshape(8, 3, DIM), labels
    )
    np.testing.assert_array_equal(np.isnan(found), np.tile(np.arange(BATCH) == 2, (8, 1)))


def test_short_label_types_hold_every_class():
    """300 classes do not fit eight bits: the comparison must not wrap."""
    features, agents, labels, _ = problem(dtype=np.float32, classes=300)
    labels = (labels % 256).astype(np.uint8)
    found = losses.softmax(features, agents, labels, scale=5.0)
    expected = losses.softmax(features, agents, labels.astype(np.int32), scale=5.0)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("classes", [50_000, 200_000])
def test_memory_does_not_grow_with_the_classes(classes):
    """Value and both gradients of 256 features: at most 48 MiB beside inputs and outputs."""
    shapes = [
        jax.ShapeDtypeStruct(shape, dtype)
        for shape, dtype in (((256, 512), "f4"), ((classes, 512), "f4"), ((256,), "i4"))
    ]
    for loss in (partial(losses.softmax, scale=30.0), losses.c_contrastive):
        mean = jax.value_and_grad(lambda f, w, y, g=loss: jnp.mean(g(f, w, y)), argnums=(0, 1))
        memory = jax.jit(mean).lower(*shapes).compile().memory_analysis()
        assert memory.temp_size_in_bytes <= 48 * 2**20


def test_only_a_budget_keeps_the_similarities():
    shapes = [
        jax.ShapeDtypeStruct(shape, dtype)
        for shape, dtype in (((256, 64), "f4"), ((200_000, 64), "f4"), ((256,), "i4"))
    ]

    def temporary(budget):
        loss = partial(losses.softmax, scale=30.0, memory_budget=budget)
        mean = jax.value_and_grad(lambda f, w, y: jnp.mean(loss(f, w, y)), argnums=(0, 1))
        return jax.jit(mean).lower(*shapes).compile().memory_analysis().temp_size_in_bytes

    similarities, margin = 4 * 256 * 200_000, 48 * 2**20
    assert temporary(similarities - 1) < margin
    assert similarities <= temporary(similarities) < similarities + margin


def test_the_guides_own_loss_works_on_blocks():
    """The documentation's example, run as it stands, against its formula."""
    made = run_examples(Path(__file__).parents[1] / "docs/how-to/losses.md")
    distance = 2 - 2 * reference.cosine_similarity(made["features"], made["agents"])
    own = made["labels"][:, None] == jnp.arange(100)[None]
    others = jax.nn.logsumexp(jnp.where(own, -jnp.inf, -distance), axis=1)
    expected = jnp.sum(jnp.where(own, distance, 0.0), axis=1) + others
    np.testing.assert_allclose(made["loss"], expected, rtol=1e-5)


def test_misuse_says_what_was_expected():
    features, agents, labels, _ = problem(dtype=np.float32)
    with pytest.raises(ValueError, match="one normalisation mode, found"):
        losses.joint(
            (losses.Softmax(normalize="none"), losses.CContrastive()), features, agents, labels
        )
    with pytest.raises(ValueError, match="block of at least one class, found 0"):
        losses.softmax(features, agents, labels, block_size=0)
    with pytest.raises(ValueError, match="budget of at least 0 bytes, found -1"):
        losses.softmax(features, agents, labels, memory_budget=-1)
    with pytest.raises(TypeError, match="unexpected keyword argument 'blocks'"):
        losses.softmax(features, agents, labels, blocks=3)
    with pytest.raises(ValueError, match=r"precision in .*found 'fp8'"):
        losses.softmax(features, agents, labels, precision="fp8")
    with pytest.raises(ValueError, match=r"margin in \[0, 4\], found 5"):
        losses.c_contrastive(features, agents, labels, margin=5)
    with pytest.raises(ValueError, match="margin 1, 2, 3 or 4, found 5"):
        losses.a_softmax(features, agents, labels, margin=5)
    with pytest.raises(ValueError, match=r"blend in \[0, inf\], found -1"):
        losses.l_softmax(features, agents, labels, blend=-1)
    with pytest.raises(ValueError, match=r"angular_multiplier in \[1, inf\], found 0.5"):
        losses.margin_softmax(features, agents, labels, scale=64.0, angular_multiplier=0.5)
    with pytest.raises(ValueError, match=r"negatives in .*found 'some'"):
        losses.c_triplet(features, agents, labels, negatives="some")
