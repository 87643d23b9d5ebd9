"""Measures NormFace's Propositions 1, 2 and 3 on random vectors, without any data set."""

from functools import partial
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hyperface import losses, theory
from hyperface.normalize import l2_normalize
from hyperface.report import drawings
from hyperface.reproduce.item import Context, Entry, Measured, Outcome

Params = dict[str, jax.Array]
CLASS_COUNTS = (10, 100, 1_000, 10_575, 31_000, 100_000)
"""Numbers of classes n of Figure 5. CASIA-WebFace has 10,575, Ring loss' part of MS-Celeb about
31,000."""


def scaling(context: Context) -> Measured:
    """Measures NormFace, Proposition 1: a longer feature never makes its class less probable.

    The class of a feature f is the one with the largest logit. Its softmax probability is computed
    for s f, where s grows from 1 to 100, without and with a bias. The proposition holds without a
    bias; with a bias the probability may fall.

    Args:
      context: not used, because no data and no run is needed.

    Returns:
      (outcome, figures). `outcome` contains the measured values and the tested sentences of the
      paper. `figures` is a dictionary caption -> figure.
    """
    rng = np.random.default_rng(0)
    count, classes, dim = 2_000, 10, 2
    features, agents, bias = (
        rng.normal(size=shape).astype(np.float32)
        for shape in ((count, dim), (classes, dim), (classes,))
    )
    factors = np.geomspace(1, 100, 41, dtype=np.float32)

    def curves(bias: np.ndarray | None) -> np.ndarray:
        # Proposition 1 is about the class of the largest logit, whichever class is right.
        winner = np.argmax(features @ agents.T + (0.0 if bias is None else bias), axis=1)

        def loss(factor: jax.Array) -> jax.Array:
            return losses.softmax(factor * features, agents, winner, normalize="none", bias=bias)

        # The loss is -log P of the winner.
        return np.exp(-np.asarray(jax.lax.map(loss, factors)))

    free, biased = curves(None), curves(bias)
    # Near P = 1 float32 has steps of 6e-8: the tolerance keeps rounding from counting as a fall.
    kept = [np.mean(np.all(p >= p[0] * (1 - 1e-6), axis=0)) for p in (free, biased)]
    fallen = np.argmin(biased[-1] - biased[0])
    entries = [
        Entry.claim("P(s f) >= P(f) for every s > 1, without bias", kept[0] == 1.0),
        Entry.of("features whose probability never falls, without bias", 100 * kept[0], "%"),
        Entry.of("features whose probability never falls, with a bias", 100 * kept[1], "%"),
        Entry.claim("with a bias it does not always hold", kept[1] < 1.0),
    ]
    drawn = drawings.curves(
        {
            "no bias, the least certain feature": (factors, free[:, np.argmin(free[0])]),
            "a bias, the feature that loses most": (factors, biased[:, fallen]),
        },
        title="Probability of the winning class",
        xlabel="factor s on the feature",
        ylabel="P(s f)",
    )
    scale = f"{count:,} random features in the plane, {classes} random classes, s up to 100"
    return Outcome(entries, scale), {"Probability against scale": drawn}


class _Descent(NamedTuple):
    """The course of a descent of free features and agents."""

    losses: jax.Array
    """[steps] mean softmax loss before each step, in nats."""
    scale: jax.Array
    """The scale s = l^2 at the end."""


def bound(context: Context) -> Measured:
    """Measures NormFace, Proposition 2: the lower bound of the softmax loss of normalised vectors.

    The bound and the numbers of NormFace's section 3.3 are computed in closed form. Then one
    feature and one agent (class weight) per class are optimised as free parameters, without a
    network: gradient descent shows that the loss reaches the bound and does not pass it.

    Args:
      context: not used, because no data and no run is needed.

    Returns:
      (outcome, figures). `outcome` contains the measured values and the tested sentences of the
      paper. `figures` is a dictionary caption -> figure.
    """
    # 10,572 is CASIA-WebFace without the three people whom the released code leaves out.
    rows = [(10_575, s) for s in (1, 4, 5, 10, 15)] + [(10_572, s) for s in (1, 4, 10)]
    rows += [(31_000, s) for s in (1, 10, 15)] + [(10, 1), (10, 4), (1_000, 1), (1_000, 10)]
    entries = [
        Entry.of(f"bound, n = {n:,}, l^2 = {s}", theory.softmax_lower_bound(n, s), "nats", 4)
        for n, s in rows
    ]
    entries += [
        Entry.of("loss of a guess, n = 10,575", np.log(10_575), "nats", 4),
        *(
            Entry.of(f"largest probability, n = {n:,}, l^2 = 1", theory.max_probability(n), "", 5)
            for n in (10, 1_000)
        ),
        *(
            Entry.of(f"l^2 for a bound of 0.1, n = {n:,}", theory.scale_for_bound(n, 0.1), "", 3)
            for n in (10, 10_572, 31_000, 1_000_000)
        ),
    ]
    runs = {
        "l^2 = 1": _descend(1.0, 0.0),
        "l^2 = 10": _descend(10.0, 0.0),
        "learned": _descend(1.0, 1.0),
    }
    for name, run in runs.items():
        at = f"10 classes, {name}"
        entries += [
            Entry.of(f"{at}: loss after descent", run.losses[-1], "nats", 4),
            Entry.of(f"{at}: bound", theory.softmax_lower_bound(10, run.scale), "nats", 4),
        ]
    least = float(theory.softmax_lower_bound(10, 1.0))
    # The loss is summed in float32, and may end below the exact bound by rounding.
    stuck = least <= runs["l^2 = 1"].losses[-1] + 1e-5 < 1.01 * least
    entries += [
        Entry.claim("without a scale the loss ends at the bound and not below", stuck),
        Entry.claim("with a learned scale it goes on falling", runs["learned"].losses[-1] < 0.1),
    ]
    entries += [*_simplex(least), *_own_slope()]
    drawn = drawings.curves(
        {name: (np.arange(run.losses.size), np.asarray(run.losses)) for name, run in runs.items()},
        title="10 classes in 16 dimensions, features and agents free",
        xlabel="step",
        ylabel="softmax loss (nats)",
        marks={"Proposition 2 at l^2 = 1": least},
        log=True,
    )
    steps = runs["learned"].losses.size
    scale = (
        f"closed forms; {steps:,} steps of Adam on 10 free features and agents, in 16 dimensions "
        "where no other number is stated"
    )
    return Outcome(entries, scale), {"Descent to the bound": drawn}


def _simplex(least: float) -> list[Entry]:
    """Measures whether ten classes reach the bound in nine and in three dimensions.

    Args:
      least: the bound for ten classes at l^2 = 1, in nats.
    """
    # At the bound all agents are equally far from each other: a regular simplex. That of ten points
    # needs nine dimensions.
    ends = {dim: _descend(1.0, 0.0, dim=dim).losses[-1] for dim in (9, 3)}
    entries = [
        Entry.of(f"10 classes in {dim} dimensions, l^2 = 1: loss after descent", end, "nats", 4)
        for dim, end in ends.items()
    ]
    return [
        *entries,
        Entry.claim("10 classes in 9 dimensions reach the bound", ends[9] < 1.001 * least),
        Entry.claim("10 classes in 3 dimensions stay above the bound", ends[3] > 1.01 * least),
    ]


def _own_slope() -> list[Entry]:
    """Measures the derivative of softmax loss by the logit of the example's own class.

    Section 3.3 says that it is 1 - P but for its sign, so that it stays large at a high bound.
    """
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(100, 10)), jnp.float32)

    def loss(logits: jax.Array) -> jax.Array:
        # With the identity matrix as agents, the logits are the features themselves.
        return jnp.sum(losses.softmax(logits, jnp.eye(10), owner, normalize="none"))

    owner = jnp.arange(100) % 10
    slope = jax.grad(loss)(logits)[jnp.arange(100), owner]
    probability = jax.nn.softmax(logits)[jnp.arange(100), owner]
    apart = float(jnp.max(jnp.abs(slope + 1 - probability)))
    # At the bound every example has the same loss, -log P.
    left = 1 - np.exp(-theory.softmax_lower_bound(10, jnp.array([1.0, 10.0])))
    return [
        Entry.of("slope in the own logit and P - 1: greatest difference", apart, "", 8),
        Entry.claim("the gradient of the own logit is 1 - P, but for its sign", apart < 1e-6),
        Entry.of("1 - P of well-separated samples, n = 10, l^2 = 1", left[0], "", 3),
        Entry.of("1 - P of well-separated samples, n = 10, l^2 = 10", left[1], "", 6),
        Entry.claim("without a scale well-separated samples keep large gradients", left[0] > 0.5),
    ]


@partial(jax.jit, static_argnames=("steps", "dim"))
def _descend(scale: float, learned: float, steps: int = 2_000, dim: int = 16) -> _Descent:
    """Minimises the softmax loss over ten features, one per class, and ten agents, by Adam.

    Args:
      scale: s = l^2 at the start.
      learned: 1 to train the scale too, 0 to keep it.
      steps: number of steps.
      dim: number of dimensions.
    """
    features, agents = jax.random.normal(jax.random.key(0), (2, 10, dim))
    params = {"features": features, "agents": agents, "scale": jnp.asarray(scale)}
    optimizer = optax.adam(0.01)

    def loss(params: Params) -> jax.Array:
        inputs = params["features"], params["agents"], jnp.arange(10)
        return jnp.mean(losses.softmax(*inputs, scale=params["scale"]))

    def step(
        carry: tuple[Params, optax.OptState], _: None
    ) -> tuple[tuple[Params, optax.OptState], jax.Array]:
        params, state = carry
        value, slope = jax.value_and_grad(loss)(params)
        # optax keeps the structure of the parameters, which its types do not say.
        updates, state = optimizer.update(slope, state)
        updates = cast(Params, updates)
        # A factor of 0 or 1 and no branch: one compiled program then does both.
        updates["scale"] *= learned
        return (cast(Params, optax.apply_updates(params, updates)), state), value

    (params, _), found = jax.lax.scan(step, (params, optimizer.init(params)), length=steps)
    return _Descent(found, params["scale"])


def bound_curves(context: Context) -> Measured:
    """Measures NormFace, Figure 5: the bound of its Proposition 2 against the squared norm l^2.

    The bound is the smallest softmax loss that vectors of norm l can reach.

    Args:
      context: not used, because no data and no run is needed.

    Returns:
      (outcome, figures). `outcome` contains the measured values and the tested sentences of the
      paper. `figures` is a dictionary caption -> figure.
    """
    squared = np.linspace(0, 40, 401)
    lines = {f"n = {n:,}": np.asarray(theory.softmax_lower_bound(n, squared)) for n in CLASS_COUNTS}
    index_of = {20: 200, 30: 300}  # l^2 to its index in `squared`, which has steps of 0.1.
    entries = [
        Entry.of(f"bound at l^2 = {s}, n = {n:,}", lines[f"n = {n:,}"][index], "nats", 6)
        for s, index in index_of.items()
        for n in CLASS_COUNTS
    ]
    enough = all(line[index] < 0.01 for line in lines.values() for index in index_of.values())
    entries.append(Entry.claim("l^2 of 20 or 30 is large enough for these class counts", enough))
    drawn = drawings.curves(
        {name: (squared, line) for name, line in lines.items()},
        title="Proposition 2",
        xlabel="squared norm l^2",
        ylabel="lower bound of the softmax loss (nats)",
    )
    return Outcome(entries, "closed form"), {"The bound as a function of the squared norm": drawn}


def distortion(context: Context) -> Measured:
    """Measures NormFace, Proposition 3: the distortion of distances by an agent, and its bound.

    A loss with agents (class weights) compares a feature f_0 with the agent of a class, instead of
    with all features of that class. The distortion is the mean squared difference between two
    distances: that of f_0 to a feature of the class, and that of f_0 to the agent. It is measured
    on random vectors.

    Args:
      context: not used, because no data and no run is needed.

    Returns:
      (outcome, figures). `outcome` contains the measured values and the tested sentences of the
      paper. `figures` is a dictionary caption -> figure.
    """
    rng = np.random.default_rng(0)
    classes, images, dim = 20, 50, 16
    means = rng.normal(size=(classes, dim))
    # One deviation per class, so that the bound is tried on narrow and on wide classes.
    spreads = np.linspace(0.1, 1.5, classes)[:, None, None]
    features = means[:, None] + spreads * rng.normal(size=(classes, images, dim))
    labels = np.repeat(np.arange(classes), images)
    flat = features.reshape(-1, dim)
    allowed = np.asarray(theory.agent_distortion(flat, means, labels, classes))
    unit, agents = (np.asarray(l2_normalize(x)) for x in (flat, means))
    apart = np.linalg.norm(unit[:, None] - unit[None], axis=2).reshape(-1, classes, images)
    from_agent = np.linalg.norm(unit[:, None] - agents[None], axis=2)
    # [f_0, class]. Distances and not their squares, as the proposition has them.
    cost = np.mean((apart - from_agent[..., None]) ** 2, axis=2)
    entries = [
        Entry.claim("the distortion never exceeds its bound", np.all(cost <= allowed + 1e-6)),
        Entry.of("greatest distortion / bound", np.max(cost / allowed)),
        Entry.of("mean distortion / bound", np.mean(cost / allowed)),
    ]
    drawn = drawings.curves(
        {
            "bound": (spreads.ravel(), allowed),
            "greatest over f_0": (spreads.ravel(), cost.max(axis=0)),
            "mean over f_0": (spreads.ravel(), cost.mean(axis=0)),
        },
        title="Distortion by an agent",
        xlabel="standard deviation within the class",
        ylabel="squared distance",
    )
    scale = f"{classes} random classes of {images} features, {dim} dimensions; every feature is f_0"
    return Outcome(entries, scale), {"Distortion and bound by spread of the class": drawn}
