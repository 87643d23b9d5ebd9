"""What a hand-written gradient rule needs in order to be right in any JAX program.

`jax.custom_vjp` leaves three things to its author, which the plain formula gets from JAX:

- Under `jax.shard_map`'s default, `check_vma=True`, every value has a type that names the mesh axes
  over which it may differ, and a cotangent must have the type of its primal. `vary_alike` gives all
  arguments of a rule the same axes beforehand. JAX transposes that cast into the sum over devices
  which the cotangent of a replicated argument needs, so the rule itself stays local.
- On a mesh with explicit axes, which is the default of new meshes, every operation must state how
  its result is split. `automatic` leaves that to the compiler inside a rule.
- Forward mode fails with an error that names neither the function nor a way on.
  `reverse_mode_only` names both.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn, TypeVar

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.sharding import AxisType, PartitionSpec

AxisName = str | tuple[str, ...]
"""One mapped axis, or several that count as one."""
Tree = TypeVar("Tree")

# ------------------------------------------------------------------- values that vary over devices


def axes_of(axis_name: AxisName | None) -> frozenset[str]:
    """Returns the mesh axes that a name stands for."""
    if axis_name is None:
        return frozenset()
    return frozenset((axis_name,) if isinstance(axis_name, str) else axis_name)


def varying_axes(*trees: Any) -> frozenset[str]:
    """Returns the mapped axes over which any array of the trees may differ.

    The set is empty outside `jax.shard_map`, and inside it under `check_vma=False`, as under
    `jax.pmap`: there JAX does not track it.
    """
    found = (jax.typeof(leaf).manual_axis_type.varying for leaf in jax.tree.leaves(trees))
    return frozenset().union(*found)


def is_tracked(axis_name: AxisName) -> bool:
    """Returns whether JAX tracks which values vary over a mapped axis."""
    return bool(varying_axes(jax.lax.axis_index(axis_name)))


def vary_over(axes: frozenset[str], tree: Tree) -> Tree:
    """Casts every array of a tree to one that may differ over at least `axes`."""

    def cast(leaf: jax.Array) -> jax.Array:
        # Sorted, so that every process traces the same program.
        missing = tuple(sorted(axes - varying_axes(leaf)))
        return jax.lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(cast, tree)


def vary_alike(*trees: Any) -> tuple[Any, ...]:
    """Casts all arrays of the trees to ones that vary over the same mapped axes."""
    return vary_over(varying_axes(trees), trees)


def equal_over(axes: frozenset[str], tree: Tree) -> Tree:
    """Casts arrays that are the same on all devices of `axes`, though their type does not say so.

    The value is the first device's. Its gradient comes back on the first device alone, so that a
    sum over the devices is the whole gradient once.
    """

    def cast(leaf: jax.Array) -> jax.Array:
        # Sorted: a set of strings has another order in each process, and collectives must match.
        for axis in sorted(axes & varying_axes(leaf)):
            is_first = jax.lax.axis_index(axis) == 0
            leaf = jax.lax.psum(jax.numpy.where(is_first, leaf, jax.numpy.zeros_like(leaf)), axis)
        return leaf

    return jax.tree.map(cast, tree)


# ------------------------------------------------------------------------------- explicit meshes


def automatic(
    function: Callable[..., Tree],
    *arguments: Any,
    split: Callable[[Any], Any],
    like: jax.Array,
) -> Tree:
    """Calls a function of arrays, with shardings inside it left to the compiler.

    Without explicit axes this is `function(*arguments)`.

    Args:
      function: takes the arguments.
      arguments: pytrees of arrays.
      split: maps the partition of the first axis of `like` to the partitions of the result.
      like: the array whose first axis the result follows.
    """
    meshes = {jax.typeof(leaf).sharding.mesh for leaf in jax.tree.leaves(arguments)}
    meshes = {mesh for mesh in meshes if AxisType.Explicit in mesh.axis_types}
    if not meshes:
        return function(*arguments)
    mesh = meshes.pop()
    first_axis = (*jax.typeof(like).sharding.spec, None)[0]
    # Called with a function it returns one, which its annotation does not say.
    whole: Any = jax.sharding.auto_axes(
        function, axes=mesh.explicit_axes, out_sharding=split(first_axis)
    )
    # The arrays bring their mesh with them where the caller has set none.
    with jax.sharding.use_abstract_mesh(mesh):
        return whole(*arguments)


def per_example(first_axis: Any) -> PartitionSpec:
    """Returns the `split` of a result that follows the first axis alone, such as losses [batch]."""
    return PartitionSpec(first_axis)


# ----------------------------------------------------------------------------------- forward mode


def reverse_mode_only(name: str, tree: Tree) -> Tree:
    """Returns the tree, whose arrays then refuse forward-mode differentiation with a clear error.

    Args:
      name: the public function, for the error.
      tree: the arrays that the function differentiates by a hand-written rule.
    """
    # Integers and keys have no tangent that could be refused.
    floating = jax.numpy.floating
    return jax.tree.map(
        lambda x: _guarded(name, x) if jax.numpy.issubdtype(x.dtype, floating) else x, tree
    )


# An identity on tangents that reverse mode transposes away and forward mode has to evaluate. It is
# a primitive because a compiled program evaluates its tangents long after the call has returned.
# The primal beside the tangent tells `jax.vmap` of a function, where both are batched, from
# `jax.jacfwd`, which batches the tangents alone.
_tangent = Primitive("reverse_mode_tangent")


def _refuse(*_: Any, name: str, **__: Any) -> NoReturn:
    raise TypeError(
        f"{name} has a hand-written reverse-mode rule (jax.custom_vjp): expected jax.grad, jax.vjp "
        "or jax.jacrev, found forward mode (jax.jvp, jacfwd, hessian or linearize). Use the plain "
        "formula in hyperface.reference, which has every mode."
    )


def _batch(
    operands: tuple[Any, Any], dims: tuple[int | None, int | None], *, name: str
) -> tuple[Any, int | None]:
    (tangent, primal), (dim, primal_dim) = operands, dims
    if primal_dim is None:
        return _refuse(name=name)
    if dim is None:
        # The primal is only carried along, so any one of the batch will do.
        return _tangent.bind(tangent, jax.numpy.take(primal, 0, primal_dim), name=name), dim
    return _tangent.bind(tangent, jax.numpy.moveaxis(primal, primal_dim, dim), name=name), dim


def _jvp(primals: Any, tangents: Any, *, name: str) -> tuple[Any, Any]:
    (tangent, primal), (change, _) = primals, tangents
    out = _tangent.bind(tangent, primal, name=name)
    if isinstance(change, ad.Zero):
        return out, change
    return out, _tangent.bind(change, primal, name=name)


_tangent.def_impl(_refuse)
_tangent.def_abstract_eval(lambda tangent, primal, *, name: tangent)
ad.primitive_jvps[_tangent] = _jvp
# The primal beside the tangent is not differentiated, so that it gets no cotangent.
ad.primitive_transposes[_tangent] = lambda cotangent, tangent, primal, *, name: (cotangent, None)
batching.primitive_batchers[_tangent] = _batch
mlir.register_lowering(_tangent, _refuse)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _guarded(name: str, x: jax.Array) -> jax.Array:
    return x


@_guarded.defjvp
def _guarded_jvp(name: str, primals: Any, tangents: Any) -> tuple[Any, Any]:
    # The primal stays guarded: a forward mode around this reverse mode is refused as well.
    primal = _guarded(name, primals[0])
    return primal, _tangent.bind(tangents[0], primal, name=name)
