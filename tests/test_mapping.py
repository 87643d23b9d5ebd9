"""Every public loss in other people's programs: each way of splitting work over devices.

One program per way computes the weighted sum of every loss, and its gradients to features, agents
and one hyper-parameter. All are compared with those of one device.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from hyperface import cosine_similarity, l2_norm, l2_normalize, losses

BATCH, DIM, CLASSES = 8, 6, 12
ALONE = ("d",)
PRESENT = np.arange(CLASSES) % 5 != 3


def per_class(array, axis_name=None, num_rows=CLASSES, **_):
    """This device's rows of an array with one row per class."""
    if axis_name is None:
        return array[:num_rows]
    first = jax.lax.axis_index(axis_name) * num_rows
    return jax.lax.dynamic_slice_in_dim(array, first, num_rows)


def weigh(loss):
    """A loss as the sum over the batch of weights times losses."""
    return lambda f, w, s, y, v, **engine: jnp.sum(v * loss(f, w, s, y, **engine))


def biased(f, w, s, y, **engine):
    bias = per_class(jnp.linspace(-1.0, 1.0, CLASSES), num_rows=w.shape[0], **engine)
    more = {"normalize": "features", "allow_normalized_bias": True}
    return losses.softmax(f, w, y, scale=s, bias=bias, **more, **engine)


def some_present(f, w, s, y, **engine):
    present = per_class(jnp.asarray(PRESENT), num_rows=w.shape[0], **engine)
    return losses.c_contrastive(f, w, y, margin=s, present=present, block_size=2, **engine)


def joint(f, w, s, y, **engine):
    terms = [losses.Softmax(4.0), losses.CTriplet(s, "hardest")]
    return sum(losses.joint(terms, f, w, y, **engine))


def inside(*terms):
    """The sum inside the engine."""

    def total(f, w, s, y, v, **engine):
        made = [term(s) for term in terms]
        return losses.weighted_sum(made, f, w, y, [v] * len(made), block_size=3, **engine)

    return total


CLASSWISE = {
    "softmax": weigh(lambda f, w, s, y, **e: losses.softmax(f, w, y, scale=s, **e)),
    "softmax in blocks": weigh(
        lambda f, w, s, y, **e: losses.softmax(f, w, y, scale=s, block_size=2, **e)
    ),
    "softmax in bf16": weigh(
        lambda f, w, s, y, **e: losses.softmax(f, w, y, scale=s, precision="bf16", **e)
    ),
    "softmax, similarities saved": weigh(
        lambda f, w, s, y, **e: losses.softmax(
            f, w, y, scale=s, block_size=2, memory_budget=2**20, **e
        )
    ),
    "softmax with bias": weigh(biased),
    "softmax, none": weigh(
        lambda f, w, s, y, **e: losses.softmax(f, w, y, scale=s, normalize="none", **e)
    ),
    "c_contrastive, some present": weigh(some_present),
    "c_triplet": weigh(lambda f, w, s, y, **e: losses.c_triplet(f, w, y, margin=s, **e)),
    "c_triplet, released": weigh(
        lambda f, w, s, y, **e: losses.c_triplet(f, w, y, margin=s, gradient="caffe", **e)
    ),
    "a_softmax": weigh(lambda f, w, s, y, **e: losses.a_softmax(f, w, y, blend=s, **e)),
    "l_softmax": weigh(lambda f, w, s, y, **e: losses.l_softmax(f, w, y, blend=s, margin=2, **e)),
    "margin_softmax": weigh(
        lambda f, w, s, y, **e: losses.margin_softmax(
            f, w, y, scale=s, angular_margin=0.3, cosine_margin=0.1, **e
        )
    ),
    "joint": weigh(joint),
    "weighted_sum": inside(losses.CContrastive),
    "weighted_sum of two": inside(losses.CContrastive, losses.Softmax),
}
LOCAL = {
    "ring": weigh(lambda f, w, s, y: losses.ring(f, s)),
    "center": weigh(lambda f, w, s, y: losses.center(f, w, y)),
    "contrastive": weigh(
        lambda f, w, s, y: losses.contrastive(f, jnp.roll(f, 1, 1), y % 2 == 0, margin=s)
    ),
    "triplet": weigh(
        lambda f, w, s, y: losses.triplet(f, jnp.roll(f, 1, 1), jnp.roll(f, 2, 1), margin=s)
    ),
    "l2_normalize": weigh(lambda f, w, s, y: s * l2_normalize(f)[:, 0]),
    "l2_norm": weigh(lambda f, w, s, y: s * l2_norm(f)),
}
WHOLE_AGENTS = {
    "cosine_similarity": weigh(lambda f, w, s, y: jnp.tanh(s * cosine_similarity(f, w)).sum(1)),
}


def arguments():
    rng = np.random.default_rng(0)
    arrays = (rng.standard_normal((BATCH, DIM)) * 3, rng.standard_normal((CLASSES, DIM)), 1.7)
    f, w, s = (jnp.asarray(x, jnp.float32) for x in arrays)
    labels = jnp.asarray(rng.permutation(CLASSES)[:BATCH], jnp.int32)
    return f, w, s, labels, jnp.asarray(rng.standard_normal(BATCH), jnp.float32)


def gradients(loss, f, w, s, y, v, **engine):
    """(value, gradients to features, agents and the hyper-parameter)."""
    return jax.jit(jax.value_and_grad(lambda *x: loss(*x, y, v, **engine), (0, 1, 2)))(f, w, s)


def mesh_of(*sizes, explicit=False):
    names = ALONE if len(sizes) == 1 else ("data", "model")
    kind = AxisType.Explicit if explicit else AxisType.Auto
    devices = jax.devices()[: int(np.prod(sizes))]
    return jax.make_mesh(sizes, names, axis_types=(kind,) * len(sizes), devices=devices)


def outside(loss, mesh, batch, rows, *, over=(), check=True, **engine):
    """The gradient of a mapped loss."""

    def local(f, w, s, y, v):
        total = loss(f, w, s, y, v, **engine)
        return jax.lax.psum(total, over) if over else total

    specs = (batch, rows, P(), batch, batch)
    mapped = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=P(), check_vma=check)
    return gradients(mapped, *arguments())


def inside_the_map(loss, mesh, batch, rows, *, over=(), check=True, add=(), **engine):
    """A mapped gradient. Without a check, what each device has a part of is added up by hand."""

    def local(f, w, s, y, v):
        value, found = gradients(loss, f, w, s, y, v, **engine)
        found = [jax.lax.psum(g, over) if i in add else g for i, g in enumerate(found)]
        return jax.lax.psum(value, over) if over else value, tuple(found)

    specs = (batch, rows, P(), batch, batch)
    out = (P(), (batch, rows, P()))
    mapped = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=out, check_vma=check)
    return mapped(*arguments())


def under_pmap(loss, split_batch):
    """Agents split by rows under pmap, gradients inside."""
    f, w, s, y, v = arguments()

    def split(x):
        return x.reshape(4, -1, *x.shape[1:])

    def local(f, w, s, y, v):
        value, (to_f, to_w, to_s) = gradients(
            loss, f, w, s, y, v, axis_name="d", split_batch=split_batch
        )
        if split_batch:
            value, to_s = jax.lax.psum((value, to_s), "d")
        return value, (to_f, to_w, to_s)

    if split_batch:
        f, y, v = split(f), split(y), split(v)
    batch_axis = 0 if split_batch else None
    mapped = jax.pmap(local, axis_name="d", in_axes=(batch_axis, 0, None, batch_axis, batch_axis))
    value, (to_f, to_w, to_s) = mapped(f, split(w), s, y, v)
    to_f = to_f.reshape(BATCH, DIM) if split_batch else to_f[2]
    return value[3], (to_f, to_w.reshape(CLASSES, DIM), to_s[1])


def gathered_features(loss):
    """Features that are equal on all devices, but whose type says that they vary."""

    def whole(x):
        return jax.lax.all_gather(x, "d", tiled=True)

    def of_gathered(f, w, s, y, v, **engine):
        found = loss(whole(f), w, s, whole(y), whole(v), **engine)
        return jax.lax.pmean(found, "d")

    return outside(of_gathered, mesh_of(4), P("d"), P("d"), axis_name="d")


def jitted(loss, mesh, batch, rows, *, context):
    """Under jit, with arrays that bring their shardings."""
    specs = (batch, rows, P(), batch, batch)
    placed = [
        jax.device_put(x, NamedSharding(mesh, spec))
        for x, spec in zip(arguments(), specs, strict=True)
    ]
    step = jax.jit(partial(gradients, loss))
    if not context:
        return step(*placed)
    with jax.set_mesh(mesh):
        return step(*placed)


BOTH = ("data", "model")
SPLIT = {"axis_name": "d"}
SPLIT_BATCH = SPLIT | {"split_batch": True}
# name -> (losses, way): what a way cannot do for the plain formula either is left out.
WAYS = {
    "batch split, default, outside": (
        "local",
        lambda L: outside(L, mesh_of(4), P("d"), P(), over="d"),
    ),
    "batch split, default, inside": (
        "local",
        lambda L: inside_the_map(L, mesh_of(4), P("d"), P(), over="d"),
    ),
    "batch split, unchecked, outside": (
        "local",
        lambda L: outside(L, mesh_of(4), P("d"), P(), over="d", check=False),
    ),
    "batch split, unchecked, inside": (
        "local",
        lambda L: inside_the_map(
            L, mesh_of(4), P("d"), P(), over="d", check=False, add=(1, 2)
        ),
    ),
    "classes split, default, outside": (
        "classwise",
        lambda L: outside(L, mesh_of(4), P(), P("d"), **SPLIT),
    ),
    "classes split, default, inside": (
        "classwise",
        lambda L: inside_the_map(L, mesh_of(4), P(), P("d"), **SPLIT),
    ),
    "classes split, unchecked, inside": (
        "classwise",
        lambda L: inside_the_map(L, mesh_of(4), P(), P("d"), check=False, **SPLIT),
    ),
    "classes split, pmap": ("classwise", lambda L: under_pmap(L, False)),
    "classes split, features gathered": ("classwise", gathered_features),
    "both split over one axis, default, outside": (
        "classwise",
        lambda L: outside(L, mesh_of(4), P("d"), P("d"), over="d", **SPLIT_BATCH),
    ),
    "both split over one axis, default, inside": (
        "classwise",
        lambda L: inside_the_map(L, mesh_of(4), P("d"), P("d"), over="d", **SPLIT_BATCH),
    ),
    "both split over one axis, unchecked, inside": (
        "classwise",
        lambda L: inside_the_map(
            L, mesh_of(4), P("d"), P("d"), over="d", check=False, add=(2,), **SPLIT_BATCH
        ),
    ),
    "both split over one axis, pmap": ("classwise", lambda L: under_pmap(L, True)),
    "both split over two axes as one": (
        "classwise",
        lambda L: outside(
            L, mesh_of(2, 2), P(BOTH), P(BOTH), over=BOTH, axis_name=BOTH, split_batch=True
        ),
    ),
    "batch x classes, default, outside": (
        "classwise",
        lambda L: outside(
            L, mesh_of(2, 2), P("data"), P("model"), over="data", axis_name="model"
        ),
    ),
    "batch x classes, default, inside": (
        "classwise",
        lambda L: inside_the_map(
            L, mesh_of(2, 2), P("data"), P("model"), over="data", axis_name="model"
        ),
    ),
} | {
    f"jit, {kind}, {name}": (
        which,
        lambda L, e=kind == "explicit", s=sizes, b=batch, r=rows, c=context: jitted(
            L, mesh_of(*s, explicit=e), b, r, context=c
        ),
    )
    for kind in ("auto", "explicit")
    for name, which, sizes, batch, rows, context in (
        ("batch split", "local", (4,), P("d"), P(), True),
        ("agents split", "classwise", (4,), P(), P("d"), True),
        ("both split", "classwise", (2, 2), P("data"), P("model"), True),
        ("batch split, no context", "local", (4,), P("d"), P(), False),
    )
}  # fmt: skip
OF_KIND = {"classwise": CLASSWISE, "local": CLASSWISE | LOCAL | WHOLE_AGENTS}


def assert_equal(found, expected, tolerance):
    for mine, truth in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert mine.shape == truth.shape
        size = max(1.0, float(jnp.abs(truth).max()))
        np.testing.assert_allclose(mine, truth, rtol=0, atol=tolerance * size)


@pytest.fixture(scope="module")
def on_one_device():
    every = CLASSWISE | LOCAL | WHOLE_AGENTS
    return jax.jit(lambda: {name: gradients(L, *arguments()) for name, L in every.items()})()


@pytest.mark.parametrize("way", WAYS)
def test_every_loss_is_right_however_it_is_split(way, on_one_device):
    kind, run = WAYS[way]
    every = OF_KIND[kind]
    if way.startswith("jit"):  # Which brings its own arrays.
        found = {name: run(loss) for name, loss in every.items()}
    else:
        found = jax.jit(lambda: {name: run(loss) for name, loss in every.items()})()
    for name in every:
        try:
            # bf16 rounds each device's part of the products on its own.
            assert_equal(found[name], on_one_device[name], 2e-2 if "bf16" in name else 2e-5)
        except AssertionError as wrong:
            raise AssertionError(f"{name}: {wrong}") from None


@pytest.mark.parametrize("mining", ["all", "hardest"])
@pytest.mark.parametrize("loss", [losses.batch_contrastive, losses.batch_triplet])
def test_losses_on_pairs_take_a_gathered_a_split_or_an_explicit_batch(loss, mining):
    f, _, _, y, v = arguments()
    y = y % 3

    def total(f, y, v):
        return jnp.sum(v * loss(f, y, mining=mining))

    def gathered(f, y, v):
        f, y = jax.lax.all_gather((f, y), "d", tiled=True)
        first = jax.lax.axis_index("d") * v.size
        own = jax.lax.dynamic_slice_in_dim(loss(f, y, mining=mining), first, v.size)
        return jax.lax.psum(jnp.sum(v * own), "d")

    def of_part(f, y, v):
        return jax.lax.psum(jnp.sum(v * loss(f, y, mining=mining, axis_name="d")), "d")

    expected = jax.jit(jax.value_and_grad(total))(f, y, v)
    for mapped in (gathered, of_part):
        mapped = jax.shard_map(mapped, mesh=mesh_of(4), in_specs=P("d"), out_specs=P())
        assert_equal(jax.jit(jax.value_and_grad(mapped))(f, y, v), expected, 2e-5)
    split = NamedSharding(mesh_of(4, explicit=True), P("d"))
    assert_equal(
        jax.jit(jax.value_and_grad(total))(*jax.device_put((f, y, v), split)), expected, 2e-5
    )


@pytest.mark.parametrize("split_batch", [False, True])
def test_sampled_classes_under_the_default(split_batch):
    """The gradient outside shard_map is that of the unchecked one inside, which training uses."""
    f, w, _, y, v = arguments()

    def local(f, w, y, v):
        everyones = jax.lax.all_gather(y, "d", tiled=True) if split_batch else y
        sample = losses.sample_classes(
            jax.random.key(1), everyones, CLASSES // 4, rate=0.5, axis_name="d"
        )
        own = sample.labels
        if split_batch:
            own = jax.lax.dynamic_slice_in_dim(own, jax.lax.axis_index("d") * y.size, y.size)
        engine = {"present": sample.present, "axis_name": "d", "split_batch": split_batch}
        return jnp.sum(v * losses.softmax(f, w[sample.rows], own, scale=4.0, **engine))

    def total(f, w, y, v):
        value = local(f, w, y, v)
        return jax.lax.psum(value, "d") if split_batch else value

    batch = P("d") if split_batch else P()
    split = {"mesh": mesh_of(4), "in_specs": (batch, P("d"), batch, batch)}
    inside = jax.shard_map(
        jax.grad(local, (0, 1)), **split, out_specs=(batch, P("d")), check_vma=False
    )
    outside = jax.grad(jax.shard_map(total, **split, out_specs=P()), (0, 1))
    assert_equal(jax.jit(outside)(f, w, y, v), jax.jit(inside)(f, w, y, v), 2e-5)


@pytest.mark.parametrize("mode", ["jvp", "jacfwd", "hessian", "linearize"])
@pytest.mark.parametrize("jitted", [False, True])
def test_forward_mode_is_refused_by_name(mode, jitted):
    f, w, _, y, _ = arguments()

    def total(f):
        return jnp.sum(losses.softmax(f, w, y, scale=4.0))

    forward = {
        "jvp": lambda f: jax.jvp(total, (f,), (f,)),
        "jacfwd": jax.jacfwd(total),
        "hessian": jax.hessian(total),
        "linearize": lambda f: jax.linearize(total, f)[1](f),
    }[mode]
    with pytest.raises(TypeError, match=r"^softmax has .*Use the plain formula in hyperface.ref"):
        (jax.jit(forward) if jitted else forward)(f)
