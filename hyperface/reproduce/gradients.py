"""Checks the losses and their gradients against the equations of both papers.

A loss is compared with its plain formula in `hyperface.reference`. A gradient is compared with the
paper's printed formula, which is written out here, and with finite differences.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from hyperface import losses, reference
from hyperface.config.loss import Normalize
from hyperface.evaluate.classification import nearest_agent_accuracy
from hyperface.normalize import cosine_similarity, l2_normalize
from hyperface.report import drawings
from hyperface.reproduce import sketches
from hyperface.reproduce.item import Context, Entry, Measured, Outcome

STEP = 1e-6
"""Step of central differences in float64; a smaller one would lose digits by rounding."""


def _relative_error(found: ArrayLike, expected: ArrayLike) -> float:
    """Returns the greatest absolute difference, divided by the greatest absolute expected value."""
    # By the greatest value and not element by element: an expected value may be 0.
    found, expected = np.asarray(found), np.asarray(expected)
    return float(np.max(np.abs(found - expected)) / np.max(np.abs(expected)))


def _compare(what: str, found: ArrayLike, expected: ArrayLike, digits: int = 15) -> Entry:
    """Returns an entry with the relative error of a computed array.

    Args:
      what: name of the comparison, for the row.
      found: the computed array.
      expected: the array that it should equal.
      digits: number of decimals that are shown.
    """
    return Entry.of(f"{what}: greatest difference", _relative_error(found, expected), "", digits)


def _finite_differences(function: Callable[[np.ndarray], jax.Array], x: np.ndarray) -> np.ndarray:
    """Returns the gradient of a scalar function of an array by central differences."""
    slopes = np.zeros(x.shape)
    for index in np.ndindex(x.shape):
        shift = np.zeros(x.shape)
        shift[index] = STEP
        slopes[index] = (function(x + shift) - function(x - shift)) / (2 * STEP)
    return slopes


def normalization(context: Context) -> Measured:
    """Checks NormFace, Eq. 3 and 4 and Figure 4: the gradient of L2 normalisation.

    The gradient of the loss with respect to a vector x is orthogonal to x. So every step makes x
    longer, unless weight decay shortens it.

    Args:
      context: not used, because no data and no run is needed.

    Returns:
      (outcome, figures). `outcome` contains the measured values and the tested sentences of the
      paper. `figures` is a dictionary caption -> figure.
    """
    # In float64: finite differences with this step are noise in float32.
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        x, slope = rng.normal(size=(2, 20, 8))

        @jax.jit
        def loss(x: jax.Array | np.ndarray) -> jax.Array:
            return jnp.sum(l2_normalize(x) * slope)

        found = np.asarray(jax.grad(loss)(x))
        unit = np.asarray(reference.l2_normalize(x))
        # Eq. 4: the part of the slope along x is removed, and the rest is divided by ||x||.
        along = np.sum(slope * unit, axis=1, keepdims=True)
        formula = (slope - unit * along) / np.linalg.norm(x, axis=1, keepdims=True)
        cosines = np.sum(found * x, axis=1) / (
            np.linalg.norm(found, axis=1) * np.linalg.norm(x, axis=1)
        )
        rates = np.geomspace(1e-3, 10, 30)
        moved = np.linalg.norm(x - rates[:, None, None] * found, axis=2)
        # Pythagoras: the step is orthogonal to x.
        expected = np.sqrt(np.sum(x**2, axis=1) + rates[:, None] ** 2 * np.sum(found**2, axis=1))
        entries = [
            Entry.of(
                "Eq. 3, unit length: greatest error",
                _relative_error(l2_normalize(x), unit),
                "",
                15,
            ),
            _compare("Eq. 4 and the formula", found, formula),
            _compare("Eq. 4 and finite differences", found, _finite_differences(loss, x), 9),
            Entry.of("greatest |cosine| of x and its gradient", np.max(np.abs(cosines)), "", 15),
            Entry.claim("x and its gradient are orthogonal", np.max(np.abs(cosines)) < 1e-6),
            Entry.claim(
                "the norm grows at every step of any size",
                np.all(moved > np.linalg.norm(x, axis=1)),
            ),
            Entry.of(
                "Pythagoras: greatest error of the new norm",
                _relative_error(moved, expected),
                "",
                15,
            ),
        ]
        free, decayed = _agent_norms(decay=0.0), _agent_norms(decay=5e-3)
    entries += [
        Entry.of("mean norm of agents after 2,000 steps, no decay", free[-1]),
        Entry.of("mean norm of agents after 2,000 steps, weight decay", decayed[-1]),
        Entry.claim("weight decay keeps the norm from growing", decayed[-1] < free[-1]),
    ]
    steps = np.arange(free.size)
    figures = {
        "Left: the gradient at x is the projection of that at its direction onto the tangent, and "
        "a step along it leaves the circle": sketches.tangent_line(),
        "Right: what features of three classes ask of a normalised weight, each along the softmax "
        "loss' gradient, lies in the tangent plane of the sphere": sketches.tangent_plane(),
        "Norm of agents in training": drawings.curves(
            {"no decay": (steps, free), "weight decay 0.005": (steps, decayed)},
            title="Norm growth",
            xlabel="step",
            ylabel="mean norm of the agents",
        ),
    }
    scale = (
        f"{len(x)} random vectors of {x.shape[1]} dimensions in float64; 10 agents in "
        f"{free.size:,} steps of SGD, batch 32"
    )
    return Outcome(entries, scale), figures


def _agent_norms(decay: float, steps: int = 2_000, rate: float = 0.5) -> np.ndarray:
    """Trains the ten agents (class weights) of a cosine softmax by SGD on fixed features.

    Args:
      decay: weight decay.
      steps: number of steps.
      rate: learning rate.

    Returns:
      The mean norm of the agents after each step, [steps].
    """
    rng = np.random.default_rng(1)
    means = rng.normal(size=(10, 8))
    labels = jnp.asarray(rng.integers(0, 10, 400))
    features = jnp.asarray(means[labels] + 0.7 * rng.normal(size=(400, 8)))
    agents = l2_normalize(jnp.asarray(rng.normal(size=(10, 8))))

    def step(agents: jax.Array, some: jax.Array) -> tuple[jax.Array, jax.Array]:
        def loss(agents: jax.Array) -> jax.Array:
            return jnp.mean(losses.softmax(features[some], agents, labels[some], scale=4.0))

        agents = agents - rate * (jax.grad(loss)(agents) + decay * agents)
        return agents, jnp.mean(jnp.linalg.norm(agents, axis=1))

    batches = jnp.asarray(rng.integers(0, 400, (steps, 32)))
    return np.asarray(jax.jit(lambda a: jax.lax.scan(step, a, batches))(agents)[1])


def softmax_formulas(context: Context) -> Measured:
    """Checks the losses of this package that implement NormFace, Eq. 1, 2, 5 and 6.

    Their values are compared with the formulas written in plain JAX, and their gradients with the
    automatic derivatives of these formulas.

    The equations are the softmax loss with and without bias (1), the class that it predicts (2),
    the cosine (5), and the softmax loss of scaled cosines (6).

    Args:
      context: not used, because no data and no run is needed.

    Returns:
      (outcome, figures). `outcome` contains the measured values and the tested sentences of the
      paper. `figures` is a dictionary caption -> figure.
    """
    rng = np.random.default_rng(0)
    features, agents, bias = rng.normal(size=(40, 8)), rng.normal(size=(10, 8)), rng.normal(size=10)
    labels = rng.integers(0, 10, 40)
    cases: dict[str, tuple[Normalize, dict[str, ArrayLike]]] = {
        "Eq. 1, without bias": ("none", {}),
        "Eq. 1, with a bias": ("none", {"bias": bias}),
        "Eq. 6, scale 1": ("both", {"scale": 1.0}),
        "Eq. 6, scale 7": ("both", {"scale": 7.0}),
    }
    entries = []
    with jax.enable_x64(True):
        # A dictionary of arguments, so that one call differentiates by all of them.
        for name, (normalize, more) in cases.items():
            given = {"features": features, "agents": agents, **more}
            given = {key: jnp.asarray(array) for key, array in given.items()}
            (value, slopes), (plain, plain_slopes) = (
                jax.value_and_grad(partial(_mean_loss, softmax, labels, normalize))(given)
                for softmax in (losses.softmax, reference.softmax)
            )
            entries.append(_compare(f"{name}: loss", value, plain))
            entries += [
                _compare(f"{name}: gradient of the {key}", slope, plain_slopes[key])
                for key, slope in slopes.items()
            ]
        cosines = cosine_similarity(features, agents)
        plain_cosines = reference.cosine_similarity(features, agents)
    logits = features @ agents.T + bias
    # Eq. 2 takes the class whose logit no other logit exceeds; a tie goes to the first.
    classes = np.argmax(np.all(logits[:, :, None] >= logits[:, None], axis=2), axis=1)
    accuracy = nearest_agent_accuracy(features, agents, classes, bias=bias)
    entries += [
        Entry.of("Eq. 2: features whose class is that of the greatest logit", 100 * accuracy, "%"),
        _compare("Eq. 5, cosine and the plain formula", cosines, plain_cosines),
    ]
    size = f"{len(features)} random features, 10 classes, 8 dimensions, float64, the mean loss"
    return Outcome(entries, size), {}


def _mean_loss(
    softmax: Callable[..., jax.Array],
    labels: np.ndarray,
    normalize: Normalize,
    given: dict[str, jax.Array],
) -> jax.Array:
    """Returns the mean of a softmax loss over the batch.

    Args:
      softmax: `losses.softmax` or the plain formula.
      labels: [batch] class ids.
      normalize: whether features, agents, both or none are normalised.
      given: the arguments to differentiate by: features, agents, and the bias or the scale.
    """
    return jnp.mean(softmax(labels=labels, normalize=normalize, **given))


def reformulations(context: Context) -> Measured:
    """Checks NormFace, Eq. 7 to 11, against the plain formulas in float64.

    The equations are contrastive loss (7), triplet loss (8), the cosine softmax written with
    distances (9), C-contrastive loss (10) and C-triplet loss (11).

    Args:
      context: not used, because no data and no run is needed.

    Returns:
      (outcome, figures). `outcome` contains the measured values and the tested sentences of the
      paper. `figures` is a dictionary caption -> figure.
    """
    rng = np.random.default_rng(0)
    features, agents = rng.normal(size=(200, 8)), rng.normal(size=(10, 8))
    labels = rng.integers(0, 10, 200)
    first, second, third = features[:80], features[80:160], features[120:]
    same = labels[:80] == labels[80:160]
    classified, paired = (features, agents, labels), (first, second, same)
    cases = {
        "Eq. 7, contrastive": ("contrastive", paired, {"margin": 1.0}),
        "Eq. 8, triplet": ("triplet", (first, second, third), {"margin": 0.8}),
        "Eq. 10, C-contrastive": ("c_contrastive", classified, {"margin": 1.0}),
        "Eq. 11, C-triplet": ("c_triplet", classified, {"margin": 0.8}),
    }
    entries = []
    for title, (name, inputs, options) in cases.items():
        with jax.enable_x64(True):
            plain = getattr(reference, name)(*inputs, **options)
        found = getattr(losses, name)(*inputs, **options)
        entries.append(_compare(f"{title} and the plain formula", found, plain, 8))
    with jax.enable_x64(True):
        # Eq. 9: the squared distance of unit vectors is 2 - 2 cos, and the 2 cancels in softmax.
        unit, rows = reference.l2_normalize(features), reference.l2_normalize(agents)
        squared = jnp.sum((unit[:, None] - rows[None]) ** 2, axis=2)
        shares = jax.nn.log_softmax(-4.0 / 2 * squared)
        plain = -shares[np.arange(200), labels]
    found = losses.softmax(features, agents, labels, scale=4.0)
    title = "Eq. 9, softmax of cosines and of squared distances"
    # Between Eq. 8 and Eq. 10, as in the paper.
    entries.insert(2, _compare(title, found, plain, 8))
    return Outcome(entries, "200 random features, 10 classes, 8 dimensions, float32"), {}


def norm_in_softmax(context: Context) -> Measured:
    """Checks Ring loss, Eq. 1 and 2: softmax loss depends on the norm of a feature.

    The norm is changed while the direction of the feature is fixed.

    Args:
      context: not used, because no data and no run is needed.

    Returns:
      (outcome, figures). `outcome` contains the measured values and the tested sentences of the
      paper. `figures` is a dictionary caption -> figure.
    """
    angles = np.linspace(0, 2 * np.pi, 10, endpoint=False)
    agents = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    norms = np.linspace(0.5, 30, 60)
    features = norms[:, None] * np.array([[np.cos(0.2), np.sin(0.2)]])
    found = np.asarray(losses.softmax(features, agents, np.zeros(60, np.int32), normalize="agents"))
    with jax.enable_x64(True):
        # Eq. 2 writes the logits of Eq. 1 as norms times cosines.
        cosines = reference.cosine_similarity(features, agents)
        logits = norms[:, None] * np.asarray(cosines)
        plain = -np.asarray(jax.nn.log_softmax(logits))[:, 0]
    entries = [
        _compare("Eq. 2 and Eq. 1", found, plain, 8),
        Entry.of("loss at norm 0.5", found[0], "nats", 4),
        Entry.of("loss at norm 30", found[-1], "nats", 4),
        Entry.claim("one direction, different norms: the losses differ", np.ptp(found) > 0.1),
    ]
    drawn = drawings.curves(
        {"a feature 0.2 rad from its weight": (norms, found)},
        title="Softmax loss of one direction",
        xlabel="feature norm",
        ylabel="loss (nats)",
    )
    scale = "10 weights of unit length in the plane, one direction, 60 norms"
    return Outcome(entries, scale), {"Loss against norm": drawn}


def ring(context: Context) -> Measured:
    """Checks Ring loss, Eq. 3 to 6: the loss, its gradients, and where the loss is convex.

    Its Eq. 5 is the gradient with respect to the radius R, and Eq. 6 that with respect to features.

    Args:
      context: not used, because no data and no run is needed.

    Returns:
      (outcome, figures). `outcome` contains the measured values and the tested sentences of the
      paper. `figures` is a dictionary caption -> figure.
    """
    with jax.enable_x64(True):
        features = np.random.default_rng(0).normal(size=(20, 4))
        radius, weight = 1.5, 0.01

        @jax.jit
        def loss(features: np.ndarray, radius: float | np.ndarray) -> jax.Array:
            return weight * jnp.mean(losses.ring(features, radius))

        norms = np.linalg.norm(features, axis=1)
        plain = weight * jnp.mean(reference.ring(features, radius))
        to_features, to_radius = jax.grad(loss, argnums=(0, 1))(features, radius)
        # The derivatives by R and by a feature f, written as the paper prints them.
        eq5 = -weight / norms.size * np.sum(norms - radius)
        eq6 = weight / norms.size * (1 - radius / norms)[:, None] * features
        moved_features = _finite_differences(lambda x: loss(x, radius), features)
        moved_radius = _finite_differences(lambda r: loss(features, r), np.array(radius))
        entries = [
            _compare(name, found, expected, digits)
            for name, found, expected, digits in (
                ("Eq. 4 and the plain formula", loss(features, radius), plain, 15),
                ("Eq. 5 and autodiff", to_radius, eq5, 15),
                ("Eq. 5 and finite differences", moved_radius, eq5, 9),
                ("Eq. 6 and autodiff", to_features, eq6, 15),
                ("Eq. 6 and finite differences", moved_features, eq6, 9),
            )
        ]
        entries += _convexity(lambda x: weight * np.asarray(losses.ring(x, radius)), radius)
    scale = (
        "20 random features of 4 dimensions, lambda 0.01, float64; convexity by the midpoints of "
        "1,000 random pairs of features, of norms, and of features of norm R and at most R"
    )
    return Outcome(entries, scale), {}


def _convexity(
    loss: Callable[[np.ndarray], np.ndarray], radius: float, pairs: int = 1_000
) -> list[Entry]:
    """Checks by the midpoints of random pairs whether a loss and two sets of features are convex.

    A convex loss is at the midpoint of a pair at most the mean of its values at both ends. A convex
    set contains the midpoint of each of its pairs.

    Args:
      loss: function from features [pairs, dim] to one value per feature, [pairs].
      radius: R.
      pairs: number of random pairs.
    """
    rng = np.random.default_rng(1)
    both = rng.normal(size=(2, pairs, 4))
    unit = both / np.linalg.norm(both, axis=2, keepdims=True)
    # Pairs that differ in length alone: all features lie on one ray.
    lengths = np.linalg.norm(both, axis=2)[..., None] * np.eye(1, 4)

    def above(points: np.ndarray) -> np.ndarray:
        # The tolerance is for rounding in float64, where both sides may be equal.
        return loss(points.mean(axis=0)) > (loss(points[0]) + loss(points[1])) / 2 + 1e-12

    on_sphere = np.linalg.norm(radius * unit.mean(axis=0), axis=1)
    inside = np.linalg.norm(np.mean(radius * unit * rng.random((2, pairs, 1)), axis=0), axis=1)
    # Both ends have the loss 0, and their midpoint, the zero vector, has the largest loss within.
    ends = radius * np.array([[unit[0, 0]], [-unit[0, 0]], [np.zeros(4)]])
    return [
        Entry.of("pairs with a midpoint of higher loss than theirs", 100 * above(both).mean(), "%"),
        Entry.of("loss of f and -f of norm R", max(loss(ends[0])[0], loss(ends[1])[0]), "", 6),
        Entry.of("loss of their midpoint", loss(ends[2])[0], "", 6),
        Entry.claim("Ring loss is convex in the feature", not above(both).any()),
        Entry.claim("Ring loss is convex in the feature's norm", not above(lengths).any()),
        Entry.claim("features of norm R are not a convex set", np.any(on_sphere < 0.99 * radius)),
        Entry.claim("features of norm R at most are a convex set", np.all(inside <= radius)),
    ]
