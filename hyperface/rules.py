"""Helps hand-written gradient rules to be correct in any JAX program.

For a plain formula JAX handles three things by itself, which `jax.custom_vjp` leaves to the author
of the rule:

- Under `jax.shard_map`'s default, `check_vma=True`, the type of every value names the mesh axes
  over which it may differ, and a cotangent must have the type of its primal. `vary_alike` casts all
  arguments of a rule to the same axes first. JAX transposes this cast into the sum over devices
  that the cotangent of a replicated argument needs, so the rule itself needs no collectives.
- On a mesh with explicit axes, which is the default of new meshes, every operation must state how
  its result is split. `automatic` leaves that to the compiler inside a rule.
- Forward mode fails with an error that does not name the function or a solution.
  `reverse_mode_only` raises an error that names both.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn, TypeVar

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.sharding import AxisType, PartitionSpec

AxisName = str | tuple[str, ...]
"""Name of a mapped axis, or names of several axes that count as one."""
Tree = TypeVar("Tree")

# ------------------------------------------------------------------- values that vary over devices


def axes_of(axis_name: AxisName | None) -> frozenset[str]:
    """Returns the names of mesh axes as a set.

    Args:
      axis_name: one name, a tuple of names, or None, for which the set is empty.
    """
    if axis_name is None:
        return frozenset()
    return frozenset((axis_name,) if isinstance(axis_name, str) else axis_name)


def varying_axes(*trees: Any) -> frozenset[str]:
    """Returns the mapped axes over which any array of the pytrees may differ.

    Inside `jax.shard_map` the type of each array names the mesh axes along which the devices may
    have different values; the result is the union of these axes. The set is empty outside of
    `jax.shard_map`. It is also empty under `check_vma=False` and under `jax.pmap`, where JAX does
    not track these axes.
    """
    found = (jax.typeof(leaf).manual_axis_type.varying for leaf in jax.tree.leaves(trees))
    return frozenset().union(*found)


def is_tracked(axis_name: AxisName) -> bool:
    """Returns whether the types of arrays tell if their values vary over a mapped axis.

    The types tell it inside `jax.shard_map` with `check_vma=True`, the default. They do not tell it
    with `check_vma=False` or under `jax.pmap`.
    """
    return bool(varying_axes(jax.lax.axis_index(axis_name)))


def vary_over(axes: frozenset[str], tree: Tree) -> Tree:
    """Casts every array of a pytree to a type whose value may differ over the mesh axes `axes`.

    The values stay as they are. Under `jax.shard_map` a hand-written gradient rule needs such
    casts, because the gradient must have the type of the input to which it belongs. Axes over which
    an array's type already varies stay in its type.
    """

    def cast(leaf: jax.Array) -> jax.Array:
        # Sorted, because the order of a set of strings differs between processes, and all processes
        # must trace the same program.
        missing = tuple(sorted(axes - varying_axes(leaf)))
        return jax.lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(cast, tree)


def vary_alike(*trees: Any) -> tuple[Any, ...]:
    """Casts all arrays of the pytrees to types that vary over the same mesh axes.

    These are all axes over which any of the arrays varies. The values stay as they are.

    Returns:
      The trees, in the order of the arguments.
    """
    return vary_over(varying_axes(trees), trees)


def equal_over(axes: frozenset[str], tree: Tree) -> Tree:
    """Casts the arrays of a pytree to a type whose value is equal over the mesh axes `axes`.

    Use it in `jax.shard_map` for values that are equal on all devices although their type says that
    they may differ. Each device gets the value of the first device. In the backward pass only the
    first device gets the gradient, so that a sum over the devices contains the gradient once.
    """

    def cast(leaf: jax.Array) -> jax.Array:
        # Sorted as above: the collectives of all processes must have the same order.
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
    """Calls a function of arrays, and leaves the shardings inside of it to the compiler.

    On a mesh with explicit axes JAX would otherwise require that each operation states how its
    result is split. Without explicit mesh axes, the call is simply `function(*arguments)`.

    Args:
      function: a function of the arguments.
      arguments: pytrees of arrays.
      split: a function that returns the `PartitionSpec` of each array in the result, as a pytree.
        Its argument is the mesh axes over which the first axis of `like` is split (None if it is
        not split). An example is `per_example`.
      like: the array whose first axis, usually the batch, determines how the result is split.
    """
    meshes = {jax.typeof(leaf).sharding.mesh for leaf in jax.tree.leaves(arguments)}
    meshes = {mesh for mesh in meshes if AxisType.Explicit in mesh.axis_types}
    if not meshes:
        return function(*arguments)
    mesh = meshes.pop()
    first_axis = (*jax.typeof(like).sharding.spec, None)[0]
    # `auto_axes` of a function returns a function, although its annotation does not say so.
    whole: Any = jax.sharding.auto_axes(
        function, axes=mesh.explicit_axes, out_sharding=split(first_axis)
    )
    # The mesh is that of the arrays, since the caller may not have set one.
    with jax.sharding.use_abstract_mesh(mesh):
        return whole(*arguments)


def per_example(first_axis: Any) -> PartitionSpec:
    """Returns the `PartitionSpec` of an array [batch], such as losses.

    Pass this function as `split` to `automatic` if the result has one number per example.

    Args:
      first_axis: the mesh axes over which the first axis of the inputs is split; None if it is not
        split.
    """
    return PartitionSpec(first_axis)


# ----------------------------------------------------------------------------------- forward mode


def reverse_mode_only(name: str, tree: Tree) -> Tree:
    """Returns the same arrays, but forward-mode differentiation through them raises a clear error.

    A function with a hand-written reverse-mode rule (`jax.custom_vjp`) calls this function on its
    inputs. `jax.grad` and `jax.vjp` work as before. `jax.jvp`, `jax.jacfwd` and `jax.hessian` raise
    a TypeError that names the function.

    Args:
      name: name of the public function, for the error.
      tree: pytree of the inputs of the hand-written rule.
    """
    # Integers and random keys have no tangents.
    floating = jax.numpy.floating
    return jax.tree.map(
        lambda x: _guarded(name, x) if jax.numpy.issubdtype(x.dtype, floating) else x, tree
    )


# The identity on tangents. Reverse mode only transposes it, while forward mode has to evaluate it,
# which raises the error. It is a primitive because a compiled program evaluates its tangents long
# after the call has returned. The primal is an operand besides the tangent, so that `_batch` can
# tell `jax.vmap` of a function, where both are batched, from `jax.jacfwd`, which batches only the
# tangents.
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
        # The value of the primal is never used, so any one of the batch can be taken.
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
# The result does not depend on the primal, so the primal gets no cotangent.
ad.primitive_transposes[_tangent] = lambda cotangent, tangent, primal, *, name: (cotangent, None)
batching.primitive_batchers[_tangent] = _batch
mlir.register_lowering(_tangent, _refuse)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _guarded(name: str, x: jax.Array) -> jax.Array:
    return x


@_guarded.defjvp
def _guarded_jvp(name: str, primals: Any, tangents: Any) -> tuple[Any, Any]:
    # The primal stays guarded, so that forward mode over reverse mode raises the error as well.
    primal = _guarded(name, primals[0])
    return primal, _tangent.bind(tangents[0], primal, name=name)
