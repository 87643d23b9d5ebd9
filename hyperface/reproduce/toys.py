"""Measures and draws the figures of both papers that need no data set.

They are NormFace's Figures 6 (agents) and 7 (margins), and Ring loss' Figures 2 (angular margin)
and 3 (a mesh of points). Their features are random points or grid points, made here.
"""

import itertools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from hyperface import losses, theory
from hyperface.normalize import l2_normalize
from hyperface.report import drawings
from hyperface.reproduce import sketches
from hyperface.reproduce.item import Context, Entry, Measured, Outcome

LEAST_RATIO = 0.01
"""Smallest norm ratio r at which the curves of Ring loss, Figure 2b, are drawn; r is above zero."""


def _sample_two_classes(
    apart: float, spread: float, count: int = 300
) -> tuple[np.ndarray, np.ndarray]:
    """Samples the features of two classes on the unit sphere in three dimensions.

    Args:
      apart: angle between the two class centers, in radians.
      spread: standard deviation of the noise per coordinate.
      count: number of features per class.

    Returns:
      Features [2 * count, 3] of unit length, and labels [2 * count], 0 or 1.
    """
    rng = np.random.default_rng(0)
    centers = np.array([[np.sin(side), 0.0, np.cos(side)] for side in (-apart / 2, apart / 2)])
    labels = np.repeat([0, 1], count)
    features = centers[labels] + spread * rng.normal(size=(2 * count, 3))
    # The noise has a radial part too, so the sum does not lie on the sphere.
    return np.asarray(l2_normalize(features)), labels


def _descend_agents(features: np.ndarray, labels: np.ndarray, margin: float) -> np.ndarray:
    """Returns the agents [2, 3], of unit length, that minimise C-contrastive loss.

    Gradient descent moves the agents alone; the features are fixed.
    """

    def step(agents: jax.Array, _: None) -> tuple[jax.Array, None]:
        def loss(agents: jax.Array) -> jax.Array:
            return jnp.mean(losses.c_contrastive(features, agents, labels, margin=margin))

        # The loss sees only the agents' directions. Without this line every step would lengthen
        # them (NormFace, Figure 4), and the same step would turn a longer agent less.
        return l2_normalize(agents - 0.05 * jax.grad(loss)(agents)), None

    # Both agents start far from the class means, so that only the descent can bring them there.
    start = jnp.array([[-0.2, 0.6, 0.7], [0.2, -0.6, 0.7]])
    return np.asarray(jax.jit(lambda a: jax.lax.scan(step, a, length=3_000))(start)[0])


def _angles_in_degrees(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Returns the angle in degrees, [rows], between each row of one array and that of the other.

    All rows are of unit length.
    """
    # Rounding can bring the cosine of two equal vectors above 1, where arccos is NaN.
    return np.degrees(np.arccos(np.clip(np.sum(one * other, axis=-1), -1.0, 1.0)))


def agents(context: Context) -> Measured:
    """Measures NormFace, Figure 6: where C-contrastive loss puts the agents of two classes.

    An agent is the weight vector of a class. The features are fixed random points on the sphere,
    and gradient descent moves the agents alone. At margin m = 0 the agents end at the class means.
    At m = 1 they end farther from the boundary between the classes.

    Args:
      context: not used, because no data and no run is needed.

    Returns:
      (outcome, figures). `outcome` contains the measured values and the tested sentences of the
      paper. `figures` is a dictionary caption -> figure.
    """
    features, labels = _sample_two_classes(apart=0.9, spread=0.25)
    means = np.stack([features[labels == c].mean(axis=0) for c in (0, 1)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    # The points that are equally far from two unit vectors form a plane through the origin, and the
    # difference of the vectors is its normal.
    normal = means[1] - means[0]
    normal /= np.linalg.norm(normal)
    entries, panels, lines = [], {}, {}
    # The angle to the plane is 90 degrees less the angle to the normal on the class' own side.
    from_boundary = 90 - _angles_in_degrees(means, np.stack([-normal, normal]))
    entries.append(Entry.of("class means to the boundary", from_boundary.mean(), "degrees"))
    for margin in (0.0, 1.0):
        ends = _descend_agents(features, labels, margin)
        to_means = _angles_in_degrees(ends, means)
        to_boundary = 90 - _angles_in_degrees(ends, np.stack([-normal, normal]))
        entries += [
            Entry.of(f"m = {margin:g}: agents to their class means", to_means.mean(), "degrees"),
            Entry.of(f"m = {margin:g}: agents to the boundary", to_boundary.mean(), "degrees"),
        ]
        if margin == 0.0:
            # At m = 0 only Eq. 10's distance to the own agent is left; the mean minimises it.
            entries.append(Entry.claim("m = 0: agents are the class means", to_means.max() < 0.1))
        else:
            away = np.all(to_boundary > from_boundary + 0.1)
            entries.append(Entry.claim("m = 1: agents are shifted away from the boundary", away))
        panels[f"m = {margin:g}"] = [
            *(drawings.Points(features[labels == c][:, :2], f"class {c}", 5) for c in (0, 1)),
            drawings.Points(ends[:, :2], "agents", 110, "*"),
            drawings.Points(means[:, :2], "class means", 150, "s", hollow=True),
        ]
        arrows = _arrows_to_agents(features, labels, ends)
        lines[f"m = {margin:g}"] = [_great_circle(normal), *arrows]
    scale = "two overlapping classes of 300 fixed features on the 3-d sphere, 3,000 steps"
    return Outcome(entries, scale), {
        "Two classes, their means, their agents and the boundary, seen from above; arrows are the "
        "intra-class steps of some features, a tenth as long": drawings.planes(panels, lines=lines)
    }


def _great_circle(normal: np.ndarray) -> drawings.Line:
    """Returns the boundary between two classes as a half circle on the sphere, seen from above.

    Args:
      normal: [3] unit normal of the plane that separates the classes.
    """
    # Two orthogonal unit vectors in the plane; the first is horizontal, so that half a turn covers
    # the upper half of the sphere.
    first = np.cross(normal, [0.0, 0.0, 1.0])
    first /= np.linalg.norm(first)
    turn = np.linspace(0, np.pi, 100)[:, None]
    points = np.cos(turn) * first + np.sin(turn) * np.cross(first, normal)
    return drawings.Line(points[:, :2], "boundary", style="--")


def _arrows_to_agents(
    features: np.ndarray, labels: np.ndarray, agents: np.ndarray
) -> Iterator[drawings.Line]:
    """Yields one arrow for every 12th feature: a step that brings it nearer to its own agent.

    The step is the negative gradient of the squared distance, drawn at a tenth of its length.
    """

    def loss(x: jax.Array) -> jax.Array:
        return jnp.sum((l2_normalize(x) - agents[labels]) ** 2)

    steps = -np.asarray(jax.grad(loss)(jnp.asarray(features)))
    for index in range(0, labels.size, 12):
        start = features[index, :2]
        ends = np.stack([start, start + 0.1 * steps[index, :2]])
        # Only the first arrow has a label, so that the legend lists the arrows once.
        yield drawings.Line(ends, "" if index else "steps of features", "#555555", arrow=True)


def margins(context: Context) -> Measured:
    """Measures NormFace, Figure 7: which features the contrastive and triplet losses push.

    A loss pushes a feature if its gradient with respect to this feature is not zero. The
    contrastive and the triplet loss compare features with each other, and push the features near
    the other class. C-contrastive and C-triplet loss compare features with agents (class weights),
    and at the same margin miss some of the features near the other class. The measured values are
    the shares of features that are pushed at a margin, and by agents also at twice the margin.

    Args:
      context: not used, because no data and no run is needed.

    Returns:
      (outcome, figures). `outcome` contains the measured values and the tested sentences of the
      paper. `figures` is a dictionary caption -> figure.
    """
    features, labels = _sample_two_classes(apart=1.2, spread=0.12)
    agents = np.stack([features[labels == c].mean(axis=0) for c in (0, 1)])
    agents = np.asarray(l2_normalize(agents))
    squared = np.sum((features[:, None] - features[None]) ** 2, axis=2)
    same = labels[:, None] == labels
    # 4 and 0 are the largest and the smallest squared distance on the unit sphere, so the pairs
    # that do not count never decide the minimum and the maximum.
    near_pair = np.where(same, 4.0, squared).min(axis=1)
    far_pair = np.where(same, squared, 0.0).max(axis=1)
    to_agents = np.sum((features[:, None] - agents[None]) ** 2, axis=2)
    rows = np.arange(labels.size)
    own, wrong = to_agents[rows, labels], to_agents[rows, 1 - labels]
    # A hinge of Eq. 7, 8, 10 and 11 pushes a feature where its argument is above zero.
    pushed = {
        "contrastive": (lambda m: near_pair < m, lambda m: wrong < m),
        "triplet": (lambda m: m + far_pair - near_pair > 0, lambda m: m + own - wrong > 0),
    }
    entries, panels = [], {}
    for (name, (by_samples, by_agents)), margin in zip(pushed.items(), (0.6, 0.4), strict=True):
        samples, missed = by_samples(margin), by_samples(margin) & ~by_agents(margin)
        larger = 2 * margin
        shares = [np.mean(by_agents(m)) for m in (margin, larger)]
        reached = features[missed & by_agents(larger)]
        entries += [
            Entry.of(f"{name}, m = {margin:g}: pushed by samples", 100 * samples.mean(), "%"),
            Entry.of(f"{name}, m = {margin:g}: pushed by agents", 100 * shares[0], "%"),
            Entry.of(f"{name}, m = {larger:g}: pushed by agents", 100 * shares[1], "%"),
            Entry.claim(f"{name}: agents at the same margin miss marginal features", missed.any()),
            Entry.claim(f"{name}: a larger margin reaches more", shares[1] > shares[0]),
        ]
        panels[f"{name}, m = {margin:g}"] = [
            drawings.Points(features[~missed][:, :2], "other features", 5),
            drawings.Points(features[missed][:, :2], "pushed by samples, missed by agents", 10),
            drawings.Points(agents[:, :2], "agents", 150, "*"),
            drawings.Points(reached[:, :2], "reached by agents at 2 m", 36, hollow=True),
        ]
    scale = "two classes of 300 features on the 3-d sphere, agents at the class means"
    return Outcome(entries, scale), {
        "Marginal features, pushed by samples of the other class and missed by its agent, seen "
        "from above": drawings.planes(panels)
    }


def angular_margin(context: Context) -> Measured:
    """Measures Ring loss, Figure 2: the angular classification margin against the norm ratio.

    Two features x_1 and x_2 are compared with the same class weight, at the angles theta_1 and
    theta_2. The margin is the largest angle theta_1 at which x_1 still has the larger inner
    product with the weight. It is arccos(r delta), where r = ||x_2|| / ||x_1|| is the norm ratio,
    and delta = cos theta_2. The longer x_2 is, the smaller is the margin.

    Args:
      context: not used, because no data and no run is needed.

    Returns:
      (outcome, figures). `outcome` contains the measured values and the tested sentences of the
      paper. `figures` is a dictionary caption -> figure.
    """
    lines, entries = {}, []
    for cosine in (0.1, 0.25, 0.5, 0.75, 1.0):
        # The margin reaches 0 at r = 1 / delta: beyond it x_2 wins at any angle.
        ratios = np.linspace(LEAST_RATIO, 1 / cosine, 300)
        angles = np.degrees(theory.angular_margin(ratios, cosine))
        lines[f"delta = {cosine:g}"] = (ratios, angles)
        at_one = np.degrees(theory.angular_margin(1.0, cosine))
        entries.append(Entry.of(f"margin at r = 1, delta = {cosine:g}", at_one, "degrees"))
    first = lines["delta = 0.1"][1]
    entries += [
        Entry.of("margin at the least r, delta = 0.1", first[0], "degrees"),
        Entry.of("margin at r = 1 / delta, delta = 0.1", first[-1], "degrees"),
        Entry.of("theta_2 at delta = 0.1", np.degrees(np.arccos(0.1)), "degrees"),
        Entry.claim(
            "the margin shrinks as r grows", all(np.all(np.diff(y) < 0) for _, y in lines.values())
        ),
        Entry.claim("it shrinks faster with a larger delta", _larger_delta_falls_faster()),
    ]
    drawn = drawings.curves(
        lines,
        title="Angular classification margin",
        xlabel="r = ||x_2|| / ||x_1||",
        ylabel="largest theta_1 (degrees)",
    )
    scale = f"closed form; r goes from {LEAST_RATIO:g}, where the margin is not quite 90 degrees"
    return Outcome(entries, scale), {
        "a: two weights, a feature of each class, and the angular margins of both": (
            sketches.classification_margins()
        ),
        "b: margin against the norm ratio": drawn,
    }


def _larger_delta_falls_faster() -> bool:
    """Returns whether the margin falls faster for a larger delta, at every norm ratio below 1."""
    # r stays below 1, where the margin is above zero for each of these deltas.
    ratios, cosines = np.linspace(0.01, 0.99, 99), np.linspace(0.1, 1.0, 10)
    falls = [-np.diff(np.asarray(theory.angular_margin(ratios, cosine))) for cosine in cosines]
    return all(np.all(more > less) for less, more in itertools.pairwise(falls))


def mesh(context: Context) -> Measured:
    """Measures Ring loss, Figure 3: how a mesh of points in the plane moves in 20 gradient steps.

    The points are features of one class. There is no network: gradient descent moves the points
    themselves. The loss is softmax loss plus lambda times Ring loss of radius 1, for lambda 0, 1
    and 10.

    Args:
      context: not used, because no data and no run is needed.

    Returns:
      (outcome, figures). `outcome` contains the measured values and the tested sentences of the
      paper. `figures` is a dictionary caption -> figure.
    """
    # With 16 points per side none lies at the origin, where a feature has no direction.
    side = np.linspace(-1.5, 1.5, 16)
    start = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2).astype(np.float32)
    weights = jnp.array([[0.0, 1.0], [0.0, -1.0]])
    target = jnp.zeros(len(start), jnp.int32)
    before = np.linalg.norm(start, axis=1)
    size, steps, further = 0.1, 20, 180
    entries, panels, norms = [], {}, {}
    settled, last, turned = {}, {}, {}

    @jax.jit
    def descend_once(points: jax.Array | np.ndarray, weight: float) -> jax.Array:
        def loss(points: jax.Array | np.ndarray) -> jax.Array:
            softmax = losses.softmax(points, weights, target, normalize="agents")
            # A sum, not a mean, so that each point moves as if it were alone.
            return jnp.sum(softmax + weight * losses.ring(points, 1.0))

        return points - size * jax.grad(loss)(points)

    for weight in (0, 1, 10):
        before_last = points = start
        for _ in range(steps):
            before_last, points = points, descend_once(points, float(weight))
        reached = np.asarray(points)
        norms[weight] = np.linalg.norm(reached, axis=1)
        last[weight] = np.linalg.norm(reached - before_last, axis=1).mean()
        # Twenty steps cannot tell slow convergence from none, so the descent goes on.
        for _ in range(further):
            points = descend_once(points, float(weight))
        settled[weight] = np.linalg.norm(points, axis=1).mean()
        to_target = np.degrees(np.arccos(np.clip(reached[:, 1] / norms[weight], -1, 1)))
        turned[weight] = 90 - to_target.mean()
        entries += [
            Entry.of(f"lambda = {weight}: mean norm", norms[weight].mean(), "", 3),
            Entry.of(f"lambda = {weight}: standard deviation of norms", norms[weight].std(), "", 3),
            Entry.of(f"lambda = {weight}: mean angle to the target", to_target.mean(), "degrees"),
            Entry.of(f"lambda = {weight}: mean length of the last step", last[weight], "", 3),
            Entry.of(
                f"lambda = {weight}: mean norm after {steps + further} steps", settled[weight]
            ),
        ]
        panels[f"lambda = {weight}"] = [
            drawings.Points(start, "before", 6),
            drawings.Points(reached, f"after {steps} steps", 8),
        ]
    entries += [
        Entry.claim("lambda = 0: norms grow", norms[0].mean() > before.mean()),
        Entry.claim("lambda = 0: norms do not converge", settled[0] > 1.1 * norms[0].mean()),
        Entry.claim(
            "lambda = 1: norms draw together", norms[1].std() < min(before.std(), norms[0].std())
        ),
        Entry.claim("lambda = 1: the last step is shorter than at 0", last[1] < last[0]),
        Entry.claim("lambda = 10: norms are one", np.max(np.abs(norms[10] - 1)) < 0.2),
        Entry.claim(
            "the larger lambda, the less points turn to the target",
            turned[10] < turned[1] < turned[0],
        ),
    ]
    way = np.array([[0.0, 0.0], [0.0, 2.0]])
    direction = drawings.Line(way, "target class", "#1f3fd0", ":", arrow=True)
    scale = (
        f"256 points, step {size}, {steps} steps; weights (0, 1), the target, and (0, -1). The "
        "paper states neither step size nor the other classes"
    )
    return Outcome(entries, scale), {
        "The mesh before and after; the dotted arrow is the target class, the circle R = 1": (
            drawings.planes(panels, lines=dict.fromkeys(panels, (direction,)), circle=1.0)
        )
    }
