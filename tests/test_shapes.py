"""The shapes in the signatures of the metrics hold in every example of their documentation."""

import doctest
import importlib
import inspect
import pkgutil

import jax
import jaxtyping
import numpy as np
import pytest
from annotated_shapes import checking, shapes_of

from hyperface import metrics

MODULES = [info.name for info in pkgutil.iter_modules(metrics.__path__) if info.name != "shapes"]


@pytest.mark.parametrize("name", MODULES)
def test_arrays_are_of_the_shapes_that_are_annotated(name, monkeypatch):
    module, checked = importlib.import_module(f"hyperface.metrics.{name}"), set()
    annotated = set()
    for key, function in list(vars(module).items()):
        if inspect.isfunction(function) and function.__module__ == module.__name__:
            shapes = inspect.get_annotations(function).values()
            has_example = ">>>" in (function.__doc__ or "")
            annotated |= {key} if has_example and any(map(shapes_of, shapes)) else set()
            monkeypatch.setattr(module, key, checking(function, checked))
    result = doctest.testmod(module)
    assert result.failed == 0
    assert annotated <= checked


@pytest.mark.parametrize("array", [np.ndarray, jax.typing.ArrayLike])
def test_another_length_is_noticed(array):
    shape = jaxtyping.Float[array, " pairs"]

    def halved(scores: shape) -> shape:
        return scores[::2]

    with pytest.raises(AssertionError, match="the result is float64"):
        checking(halved, set())(np.ones(4))
