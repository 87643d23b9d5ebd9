"""The shapes in the signatures of the metrics hold in every example of their documentation."""

import doctest
import functools
import importlib
import inspect
import pkgutil

import jaxtyping
import numpy as np
import pytest

from hyperface import metrics

MODULES = [info.name for info in pkgutil.iter_modules(metrics.__path__) if info.name != "shapes"]


def is_shape(annotation):
    return isinstance(annotation, type) and issubclass(annotation, jaxtyping.AbstractArray)


def checking(function, checked):
    """The function, with every array that it is given or returns compared with its annotation."""
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
            for name, value, shape in arrays:
                if is_shape(shape) and isinstance(value, np.ndarray):
                    message = f"{function.__name__}: {name} is {value.dtype}{value.shape}"
                    assert isinstance(value, shape), f"{message}, not {shape}"
                    checked.add(function.__name__)
        return result

    return called


@pytest.mark.parametrize("name", MODULES)
def test_arrays_are_of_the_shapes_that_are_annotated(name, monkeypatch):
    module, checked = importlib.import_module(f"hyperface.metrics.{name}"), set()
    annotated = set()
    for key, function in list(vars(module).items()):
        if inspect.isfunction(function) and function.__module__ == module.__name__:
            shapes = inspect.get_annotations(function).values()
            has_example = ">>>" in (function.__doc__ or "")
            annotated |= {key} if has_example and any(map(is_shape, shapes)) else set()
            monkeypatch.setattr(module, key, checking(function, checked))
    result = doctest.testmod(module)
    assert result.failed == 0
    assert annotated <= checked


def test_another_length_is_noticed():
    shape = jaxtyping.Float[np.ndarray, " pairs"]

    def halved(scores: shape) -> shape:
        return scores[::2]

    with pytest.raises(AssertionError, match="the result is float64"):
        checking(halved, set())(np.ones(4))
