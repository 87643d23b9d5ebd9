"""Compares the arrays that a function is given and returns with the shapes in its signature."""

import functools
import inspect
import types
import typing

import jax
import jaxtyping
import numpy as np


def shapes_of(annotation):
    """Returns the alternatives of an annotation that are shapes of arrays."""
    # isinstance does not look into the shapes of a union, so each alternative is compared itself.
    is_union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    alternatives = typing.get_args(annotation) if is_union else (annotation,)
    return [
        x for x in alternatives if isinstance(x, type) and issubclass(x, jaxtyping.AbstractArray)
    ]


def checking(function, checked):
    """Returns the function, with every array compared with its annotation.

    The name of a function whose arrays were compared is added to the set `checked`.
    """
    signature = inspect.signature(function)
    wanted = {name: p.annotation for name, p in signature.parameters.items()}

    @functools.wraps(function)
    def called(*args, **kwargs):
        given = signature.bind(*args, **kwargs).arguments
        result = function(*args, **kwargs)
        arrays = [(name, value, wanted[name]) for name, value in given.items()]
        arrays.append(("the result", result, signature.return_annotation))
        fields = inspect.get_annotations(type(result)) if hasattr(result, "_fields") else {}
        arrays += [(name, getattr(result, name), shape) for name, shape in fields.items()]
        with jaxtyping.jaxtyped("context"):  # Equal names are equal lengths within one call.
            for name, value, annotation in arrays:
                shapes = shapes_of(annotation)
                if shapes and isinstance(value, np.ndarray | jax.Array):
                    message = f"{function.__name__}: {name} is {value.dtype}{value.shape}"
                    fits = any(isinstance(value, shape) for shape in shapes)
                    assert fits, f"{message}, not {annotation}"
                    checked.add(function.__name__)
        return result

    return called
