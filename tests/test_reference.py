"""The reference formulas against NumPy, in every mode of differentiation, and the library's."""

import inspect
import itertools
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from annotated_shapes import checking, shapes_of

from hyperface import losses, normalize, reference

BATCH, CLASSES, DIM = 4, 3, 3
LABELS = np.array([2, 0, 2, 1], np.int32)
MININGS = ("all", "violating", "hardest")

# Functions of hyperface.losses that are no losses.
OTHERS = {
    "annealed_blend",
    "center_direction",
    "joint",
    "sample_classes",
    "updated_centers",
    "updated_norm_statistics",
    "weighted_sum",
    "weighted_sum_with_update",
}
LOSSES = [
    name
    for name in losses.__all__
    if inspect.isfunction(getattr(losses, name)) and name not in OTHERS
]
NORMALISATIONS = ["cosine_similarity", "l2_norm", "l2_normalize"]
# Keywords that say how the library computes, and those whose gradient is not of any formula.
ENGINE = {*losses.Engine.__annotations__, "axis_name"}
NO_FORMULA = {(name, "gradient") for name in ("a_softmax", "c_triplet", "margin_softmax")}


def library(name: str) -> Callable:
    return getattr(normalize if name in NORMALISATIONS else losses, name)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt(np.sum(x**2, axis=-1, keepdims=True) + 1e-12)


def squared(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """[x's rows, y's rows] squared distances of unit vectors."""
    return np.sum((unit(x)[:, None] - unit(y)[None]) ** 2, axis=2)


def cross_entropy(logits: np.ndarray) -> list[float]:
    return [-np.log(np.exp(z[y]) / np.sum(np.exp(z))) for z, y in zip(logits, LABELS, strict=True)]


def with_target(logits: np.ndarray, target: np.ndarray) -> list[float]:
    logits = logits.copy()
    logits[np.arange(BATCH), LABELS] = target
    return cross_entropy(logits)


def numpy_softmax(f, w, normalize="both", scale=1.0, bias=0.0, **_):
    f = unit(f) if normalize in ("both", "features") else f
    w = unit(w) if normalize in ("both", "agents") else w
    return cross_entropy(np.reshape(scale, (-1, 1)) * f @ w.T + bias)


def numpy_c_contrastive(f, w, margin=1.0, **_):
    return [
        d[y] + sum(max(0, margin - d[j]) for j in range(CLASSES) if j != y)
        for d, y in zip(squared(f, w), LABELS, strict=True)
    ]


def numpy_c_triplet(f, w, margin=0.8, negatives="all", always_pull=False):
    reduce = sum if negatives == "all" else max
    return [
        reduce(max(0, margin + d[y] - d[j]) for j in range(CLASSES) if j != y) + always_pull * d[y]
        for d, y in zip(squared(f, w), LABELS, strict=True)
    ]


def numpy_psi(theta, margin):
    k = np.floor(margin * theta / np.pi)
    return (-1) ** k * np.cos(margin * theta) - 2 * k


def numpy_multiplied_angle(f, w, margin, blend):
    logits = f @ w.T
    own = logits[np.arange(BATCH), LABELS]
    length = np.linalg.norm(f, axis=1) * np.linalg.norm(w, axis=1)[LABELS]
    psi = numpy_psi(np.arccos(own / length), margin)
    return with_target(logits, (blend * own + length * psi) / (1 + blend))


def numpy_margin_softmax(f, w, scale, angular_multiplier=1, angular_margin=0, cosine_margin=0):
    cosines = unit(f) @ unit(w).T
    theta = np.arccos(cosines[np.arange(BATCH), LABELS])
    target = scale * (np.cos(angular_multiplier * theta + angular_margin) - cosine_margin)
    return with_target(np.reshape(scale, (-1, 1)) * cosines, target)


STATISTICS = losses.NormStatistics(1.5, 0.4)


def numpy_adaface(f, w, statistics, scale, margin, concentration):
    norms = np.linalg.norm(f, axis=1)
    z = np.clip(concentration * (norms - statistics.mean) / (statistics.std + 1e-3), -1, 1)
    return numpy_margin_softmax(f, w, scale, 1, -margin * z, margin * z + margin)


def numpy_magface(f, w, scale, lower_margin, upper_margin, lower_norm, upper_norm, easy_margin):
    share = (np.clip(np.linalg.norm(f, axis=1), lower_norm, upper_norm) - lower_norm) / (
        upper_norm - lower_norm
    )
    margins = lower_margin + share * (upper_margin - lower_margin)
    if easy_margin:
        own = np.sum(unit(f) * unit(w)[LABELS], axis=1)
        margins = np.where(own > 0, margins, 0.0)
    return numpy_margin_softmax(f, w, scale, 1, margins)


def numpy_batch(f, labels, margin, mining, kind, counted=None):
    """Loops over the pairs or triplets of each example."""
    batch = range(len(labels))
    counted = np.ones(len(labels), bool) if counted is None else counted
    d, found = squared(f, f), []
    for i in batch:
        others = [j for j in batch if j != i and counted[i] and counted[j]]
        same = [d[i, j] for j in others if labels[j] == labels[i]]
        apart = [d[i, j] for j in others if labels[j] != labels[i]]
        if mining == "hardest":
            same, apart = sorted(same)[-1:], sorted(apart)[:1]
        pairs = itertools.product(same, apart) if kind == "triplet" else ((0, n) for n in apart)
        hinges = [max(0, margin + p - n) for p, n in pairs]
        hinges = [h for h in hinges if h > 0 or mining != "violating"]
        parts = (hinges,) if kind == "triplet" else (same, hinges)
        found.append(sum(np.mean(part) if part else 0.0 for part in parts))
    return found


def numpy_ring(f, radius, form="paper", counted=None):
    counted = np.ones(len(f), bool) if counted is None else counted
    norm = np.linalg.norm(f, axis=1)
    h = np.abs(norm - radius)
    return {
        "paper": h**2 / 2,
        "released-l2": h**2,
        "released-l1": np.where(h < 1, h**2, 2 * h - 1),
        "released-auto": h**2 / max(norm[counted].mean(), 0.5),
    }[form]


class Case(NamedTuple):
    """A function with its keywords, its arguments, and its formula in NumPy."""

    name: str
    keywords: dict[str, Any]
    shapes: tuple[tuple[int, ...], ...]
    """Of the arguments with derivatives, which come first."""
    formula: Callable
    """Of these arguments and the keywords."""
    others: tuple[np.ndarray, ...] = ()
    """Arguments without derivatives, which come after."""

    def __str__(self) -> str:
        return ", ".join([self.name, *(f"{k}={v}" for k, v in self.keywords.items())])

    def arguments(self, dtype: Any = jnp.float64) -> list[jax.Array]:
        rng = np.random.default_rng(3)
        return [jnp.asarray(1.3 * rng.standard_normal(shape), dtype) for shape in self.shapes]

    def of(self, function: Callable) -> Callable:
        """The function of the arguments with derivatives only."""
        return lambda *arguments: function(*arguments, *self.others, **self.keywords)


ROWS, PER_CLASS = (BATCH, DIM), (CLASSES, DIM)
SAME = np.array([True, False, False, True])


def class_wise(name: str, formula: Callable, **keywords: Any) -> Case:
    return Case(name, keywords, (ROWS, PER_CLASS), formula, (LABELS,))


def mined(name: str, mining: str, labels: list[int], counted: np.ndarray | None) -> Case:
    kind, labels = name.removeprefix("batch_"), np.array(labels, np.int32)

    def formula(f, **keywords):
        return numpy_batch(f, labels, kind=kind, **keywords)

    # Some hinges are active and some are not.
    keywords = {"margin": 1.7, "mining": mining, "counted": counted}
    return Case(name, keywords, ((len(labels), DIM),), formula, (labels,))


CASES = [
    Case("l2_norm", {}, (ROWS,), lambda x: np.linalg.norm(x, axis=1)),
    Case("l2_normalize", {}, (ROWS,), unit),
    Case("cosine_similarity", {}, (ROWS, PER_CLASS), lambda f, w: unit(f) @ unit(w).T),
    class_wise("softmax", numpy_softmax, scale=7.0),
    class_wise("softmax", numpy_softmax, normalize="features", scale=3.0),
    class_wise("softmax", numpy_softmax, normalize="agents"),
    class_wise("softmax", numpy_softmax, normalize="none", bias=np.array([0.5, -1.0, 0.2])),
    class_wise(
        "softmax", numpy_softmax, scale=2.0, bias=np.ones(CLASSES), allow_normalized_bias=True
    ),
    class_wise("softmax", numpy_softmax, scale=7.0, gradient="caffe"),
    class_wise("c_contrastive", numpy_c_contrastive, margin=3.0),
    class_wise("c_contrastive", numpy_c_contrastive, margin=3.0, gradient="caffe"),
    class_wise("c_triplet", numpy_c_triplet, margin=1.5),
    class_wise("c_triplet", numpy_c_triplet, negatives="hardest", always_pull=True),
    *(
        class_wise(
            "a_softmax",
            lambda f, w, **k: numpy_multiplied_angle(f, unit(w), **k),
            margin=margin,
            blend=blend,
        )
        for margin, blend in ((1, 0.0), (2, 0.5), (3, 0.0), (4, 5.0))
    ),
    class_wise("l_softmax", numpy_multiplied_angle, margin=4, blend=0.5),
    class_wise("margin_softmax", numpy_margin_softmax, scale=8.0, angular_margin=0.5),
    class_wise("margin_softmax", numpy_margin_softmax, scale=8.0, cosine_margin=0.35),
    class_wise(
        "margin_softmax",
        numpy_margin_softmax,
        scale=5.0,
        angular_multiplier=1.2,
        angular_margin=0.3,
        cosine_margin=0.2,
    ),
    class_wise(
        "adaface", numpy_adaface, statistics=STATISTICS, scale=8.0, margin=0.4, concentration=0.3
    ),
    *(
        class_wise(
            "magface",
            numpy_magface,
            scale=8.0,
            lower_margin=0.2,
            upper_margin=0.8,
            lower_norm=1.0,
            upper_norm=4.0,
            easy_margin=easy,
        )
        for easy in (True, False)
    ),
    Case(
        "magface_regularizer",
        {"lower_norm": 1.0, "upper_norm": 4.0},
        (ROWS,),
        lambda f, lower_norm, upper_norm: (lambda a: 1 / a + a / upper_norm**2)(
            np.clip(np.linalg.norm(f, axis=1), lower_norm, upper_norm)
        ),
    ),
    Case(
        "contrastive",
        {"margin": 3.0},
        (ROWS, ROWS),
        lambda a, b, margin: np.where(
            SAME, np.diag(squared(a, b)), np.maximum(0, margin - np.diag(squared(a, b)))
        ),
        (SAME,),
    ),
    Case(
        "triplet",
        {"margin": 1.5},
        (ROWS, ROWS, ROWS),
        lambda a, p, n, margin: np.maximum(
            0, margin + np.diag(squared(a, p)) - np.diag(squared(a, n))
        ),
    ),
    *(
        mined(name, mining, [0, 1, 0, 2, 1, 0, 2], counted)
        for name in ("batch_contrastive", "batch_triplet")
        for mining in MININGS
        for counted in (None, np.arange(7) < 5)
    ),
    Case(
        "center",
        {},
        (ROWS, PER_CLASS),
        lambda f, c: np.sum((f - c[LABELS]) ** 2, axis=1) / 2,
        (LABELS,),
    ),
    *(
        Case("ring", {"form": form}, (ROWS, ()), numpy_ring)
        for form in ("paper", "released-l2", "released-l1", "released-auto")
    ),
    Case(
        "ring", {"form": "released-auto", "counted": np.arange(BATCH) < 2}, (ROWS, ()), numpy_ring
    ),
]
of_cases = pytest.mark.parametrize("case", CASES, ids=str)


def test_every_public_loss_has_a_case():
    assert {case.name for case in CASES} == {*LOSSES, *NORMALISATIONS}


@pytest.mark.parametrize("name", [*LOSSES, *NORMALISATIONS])
def test_arguments_are_those_of_the_library(name):
    """Names, kinds, order and defaults of all that is not the engine's."""

    def shared(function):
        return [
            (parameter.name, parameter.kind, parameter.default)
            for parameter in inspect.signature(function).parameters.values()
            if parameter.kind != parameter.VAR_KEYWORD
            and parameter.name not in ENGINE
            and (name, parameter.name) not in NO_FORMULA
        ]

    formula = getattr(reference, name, None)
    assert formula, f"hyperface.reference has no {name}: write the paper's formula there"
    assert shared(formula) == shared(library(name))
    assert not NO_FORMULA & {
        (name, parameter) for parameter in inspect.signature(formula).parameters
    }


@of_cases
@pytest.mark.parametrize("find", [library, partial(getattr, reference)], ids=["library", "formula"])
def test_arrays_are_of_the_shapes_that_are_annotated(case, find):
    function, checked = find(case.name), set()
    # Shapes are known without a computation, so nothing is compiled.
    jax.eval_shape(case.of(checking(function, checked)), *case.arguments(jnp.float32))
    annotated = any(map(shapes_of, inspect.get_annotations(function).values()))
    assert checked == ({case.name} if annotated else set())


@of_cases
def test_values_are_those_of_numpy(case):
    with jax.enable_x64(True):
        arguments = case.arguments()
        found = jax.jit(case.of(getattr(reference, case.name)))(*arguments)
        expected = case.formula(*(np.asarray(x) for x in arguments), **case.keywords)
        assert found.dtype == jnp.float64
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("labels", [[0, 0, 0, 0], [0, 1, 2, 3]])
@pytest.mark.parametrize("mining", MININGS)
@pytest.mark.parametrize("name", ["batch_contrastive", "batch_triplet"])
def test_a_mean_over_no_pairs_is_zero(name, mining, labels):
    test_values_are_those_of_numpy(mined(name, mining, labels, None))


@of_cases
def test_forward_mode_equals_reverse_mode(case, rng):
    with jax.enable_x64(True):
        loss, arguments = jax.jit(case.of(getattr(reference, case.name))), case.arguments()
        tangents = [jnp.asarray(rng.standard_normal(x.shape)) for x in arguments]
        value, forward = jax.jvp(loss, arguments, tangents)
        _, pull = jax.vjp(loss, *arguments)
        cotangent = jnp.asarray(rng.standard_normal(value.shape))
        backward = sum(jnp.vdot(x, t) for x, t in zip(pull(cotangent), tangents, strict=True))
        np.testing.assert_allclose(jnp.vdot(cotangent, forward), backward, rtol=1e-10)
        np.testing.assert_allclose(jax.linearize(loss, *arguments)[1](*tangents), forward)


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.keywords.get("gradient") != "caffe"], ids=str
)
def test_hessians_both_ways_are_equal(case, rng):
    """Forward over reverse of the formula, and reverse over reverse of the library's rules."""
    with jax.enable_x64(True):
        arguments = case.arguments()
        shape = jax.eval_shape(case.of(getattr(reference, case.name)), *arguments).shape
        weights = jnp.asarray(rng.standard_normal(shape))

        def total(function):
            return lambda arguments: jnp.sum(weights * case.of(function)(*arguments))

        formula = jax.jit(jax.hessian(total(getattr(reference, case.name))))(arguments)
        rules = jax.jit(jax.jacrev(jax.grad(total(library(case.name)))))(arguments)
        largest = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(formula))
        assert largest > 0
        for found, expected in zip(*map(jax.tree.leaves, (rules, formula)), strict=True):
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11 * max(1, largest))


HARD = np.array([[0, 0, 0], [1, 0, 0], [-1, 0, 0], [1e-6, 0, 0], [1e4, 0, 0]], np.float32)


@pytest.mark.parametrize("case", [c for c in CASES if c.name in LOSSES], ids=str)
def test_hard_points_stay_finite(case):
    """The zero vector and cosines of exactly 1 and -1, to the second derivative."""
    case = case._replace(
        keywords={k: v for k, v in case.keywords.items() if k != "counted"},
        others=tuple(np.resize(x, 5) * (x.dtype == bool) for x in case.others),
    )
    firsts = [jnp.asarray(HARD)] * len(case.shapes)
    if case.shapes[-1] == PER_CLASS:
        firsts[-1] = jnp.eye(CLASSES)
    elif case.shapes[-1] == ():
        firsts[-1] = jnp.float32(2.0)

    @jax.jit
    def derivatives(arguments):
        def total(arguments):
            return jnp.sum(case.of(getattr(reference, case.name))(*arguments))

        return jax.jit(jax.value_and_grad(total))(arguments), jax.hessian(total)(arguments)

    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(derivatives(firsts)))


@pytest.mark.parametrize("angle", [1e-1, 1e-3, 1e-5])
def test_an_angular_margins_slope_next_to_the_agent(angle):
    """dL/dtheta = s p sin(theta + m2), and what the other agent adds, at norms of 20."""
    scale, margin = 4.0, 0.5
    agents = 20 * jnp.eye(2)

    def loss(features):
        return reference.margin_softmax(
            features, agents, jnp.array([0]), scale=scale, angular_margin=margin
        )[0]

    features = 20 * jnp.array([[np.cos(angle), np.sin(angle)]], jnp.float32)
    tangent = 20 * jnp.array([[-np.sin(angle), np.cos(angle)]], jnp.float32)
    _, found = jax.jvp(loss, (features,), (tangent,))
    own, other = np.exp(scale * np.cos(angle + margin)), np.exp(scale * np.sin(angle))
    share = other / (own + other)
    expected = scale * share * (np.sin(angle + margin) + np.cos(angle))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_scales_and_margins_may_differ_by_example(rng):
    names = ("scale", "angular_margin", "cosine_margin")
    per_example = [rng.uniform(0.1, 0.5, BATCH) for _ in names]
    with jax.enable_x64(True):
        f, w = class_wise("softmax", numpy_softmax).arguments()
        keywords = dict(zip(names, map(jnp.asarray, per_example), strict=True))
        margins = reference.margin_softmax(f, w, LABELS, **keywords)
        scaled = reference.softmax(f, w, LABELS, scale=keywords["scale"])
        for i in range(BATCH):
            row = f[i : i + 1], w, LABELS[i : i + 1]
            one = {name: float(values[i]) for name, values in keywords.items()}
            np.testing.assert_allclose(margins[i], reference.margin_softmax(*row, **one)[0])
            expected = reference.softmax(*row, scale=one["scale"])[0]
            np.testing.assert_allclose(scaled[i], expected)


CLASS_WISE = [case for case in CASES if case.shapes[1:] == (PER_CLASS,) and case.name in LOSSES]


@pytest.mark.parametrize("case", CLASS_WISE, ids=str)
def test_a_label_out_of_range_is_nan(case):
    with jax.enable_x64(True):
        labels = np.array([2, 3, -1, 1], np.int32)
        found = case._replace(others=(labels,)).of(getattr(reference, case.name))(*case.arguments())
    np.testing.assert_array_equal(np.isnan(found), [False, True, True, False])


@pytest.mark.parametrize("case", [c for c in CASES if c.name != "l2_normalize"], ids=str)
def test_half_precision_is_computed_in_float32(case):
    half = case.arguments(jnp.bfloat16)
    loss = jax.jit(case.of(getattr(reference, case.name)))
    found = loss(*half)
    exact = loss(*(x.astype(jnp.float32) for x in half))
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, exact)


@pytest.mark.parametrize(
    ("name", "keywords"),
    [
        ("softmax", {"normalize": "l2"}),
        ("softmax", {"gradient": "released"}),
        ("c_contrastive", {"gradient": "true"}),
        ("c_triplet", {"negatives": "some"}),
        ("batch_contrastive", {"mining": "semi"}),
        ("batch_triplet", {"mining": "semi"}),
        ("ring", {"form": "l2"}),
    ],
)
def test_an_unknown_word_is_refused(name, keywords):
    case = next(case for case in CASES if case.name == name)._replace(keywords=keywords)
    ((word, found),) = keywords.items()
    with pytest.raises(ValueError, match=rf"expected {word} in .*found '{found}'"):
        case.of(getattr(reference, name))(*case.arguments(jnp.float32))


def test_a_bias_beside_normalisation_is_refused():
    f, w = class_wise("softmax", numpy_softmax).arguments(jnp.float32)
    with pytest.raises(ValueError, match='bias=None with normalize="agents"'):
        reference.softmax(f, w, LABELS, normalize="agents", bias=np.zeros(CLASSES, np.float32))
