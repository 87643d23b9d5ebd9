"""Heads trained all at once: each as if it were alone, by the losses as the reference has them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hyperface import reference
from hyperface.reproduce import heads_at_once, robustness
from hyperface.reproduce.heads_at_once import Setting
from hyperface.reproduce.item import Entry

CLASSES, IMAGES, WIDTH, STEPS = 5, 40, 6, 60
SETTINGS = [
    Setting(),
    Setting(ring=0.1),
    Setting(center=0.01),
    Setting(unit_features=True, scale=4.0),
    Setting(unit_features=True, unit_agents=True, scale=4.0, c_contrastive=0.5, margin=0.0),
]


@pytest.fixture(scope="module", autouse=True)
def _small():
    before = heads_at_once.HIDDEN, heads_at_once.DIM, heads_at_once.BATCH
    heads_at_once.HIDDEN, heads_at_once.DIM, heads_at_once.BATCH = 7, 4, 8
    yield
    heads_at_once.HIDDEN, heads_at_once.DIM, heads_at_once.BATCH = before


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(1)
    labels = np.arange(IMAGES) % CLASSES
    means = rng.normal(size=(CLASSES, 1, WIDTH))
    features = means[labels] + 0.3 * rng.normal(size=(IMAGES, 2, WIDTH))
    return features.astype(np.float32), labels.astype(np.int32)


@pytest.fixture(scope="module")
def together(data):
    return heads_at_once.train(SETTINGS, *data, seeds=2, steps=STEPS)


def alone(setting, seed, data):
    """The parameters of one setting and seed without any mapping."""
    data = tuple(map(jnp.asarray, data))

    @jax.jit
    def params(key, setting):
        carry = heads_at_once.initial_state(key, data, CLASSES, STEPS)
        return heads_at_once.some_steps(carry, key, setting, 0, STEPS, data, steps=STEPS).params

    return params(jax.random.key(seed), setting)


@pytest.mark.parametrize(("setting", "seed"), [(1, 0), (3, 1), (4, 0)])
def test_each_setting_ends_as_if_it_were_alone(setting, seed, together, data):
    single = alone(SETTINGS[setting], seed, data)
    for name, found in single.items():
        np.testing.assert_allclose(together[name][seed, setting], found, rtol=2e-4, atol=2e-5)


def test_settings_and_seeds_differ(together):
    agents = together["agents"].reshape(2 * len(SETTINGS), -1)
    apart = np.abs(agents[:, None] - agents[None]).max(axis=2)
    assert apart[np.triu_indices(len(agents), 1)].min() > 1e-3
    # Only ring loss moves R, which starts at the mean norm for each seed.
    assert together["radius"][0, 0] == together["radius"][0, 2]
    assert together["radius"][0, 0] != together["radius"][0, 1]


def test_the_objective_is_the_sum_of_the_papers_terms(data):
    rng = np.random.default_rng(2)
    carry = heads_at_once.initial_state(
        jax.random.key(0), tuple(map(jnp.asarray, data)), CLASSES, STEPS
    )
    batch, labels = data[0][:8, 0], data[1][:8]
    centers = rng.normal(size=(CLASSES, 4)).astype(np.float32)
    setting = Setting(0.7, 0.3, 0.2, 0.5, 0.9, 3.0, True, True)
    params = {name: np.asarray(x, np.float64) for name, x in carry.params.items()}
    x = batch @ params["inner"]
    f, w = np.where(x < 0, 0.25 * x, x) @ params["outer"], params["agents"]
    with jax.enable_x64(True):
        terms = (
            0.7 * reference.softmax(f, w, labels, scale=3.0)
            + 0.3 * reference.ring(f, params["radius"])
            + 0.2 * reference.center(f, centers, labels)
            + 0.5 * reference.c_contrastive(f, w, labels, margin=0.9)
        )
    found = heads_at_once.objective(carry.params, centers, setting, batch, labels)
    assert float(found) == pytest.approx(np.asarray(terms).mean(), rel=1e-5)


def test_training_learns_the_classes(together, data):
    features, labels = data
    for place in range(len(SETTINGS)):
        head = {name: x[0, place] for name, x in together.items()}
        made = np.asarray(heads_at_once.embed(head, features[:, 0]))
        unit = made / np.linalg.norm(made, axis=1, keepdims=True)
        agents = head["agents"] / np.linalg.norm(head["agents"], axis=1, keepdims=True)
        assert np.mean(np.argmax(unit @ agents.T, axis=1) == labels) > 0.6


def test_spread_is_over_settings_for_each_seed_and_infinite_where_one_diverged():
    scores = {1.0: [80, 70], 2.0: [84, 76], 3.0: [np.nan, 75]}
    found = {
        ("lambda", v): robustness.Scores(np.array(s, float), np.array(s, float), np.ones(2))
        for v, s in scores.items()
    }
    spread = robustness._spread(found, "lambda", "accuracy", (1.0, 2.0))
    assert spread == pytest.approx([4 / 2**0.5, 6 / 2**0.5])
    # A seed that diverged somewhere is the opposite of robust.
    spread = robustness._spread(found, "lambda", "accuracy", (1.0, 2.0, 3.0))
    assert spread == pytest.approx([np.inf, np.std([70, 76, 75], ddof=1)])
    shown = robustness._spread_entries(found, "lambda", (1.0, 2.0, 3.0), "all")
    assert shown[0].values == pytest.approx((4 / 2**0.5, 6 / 2**0.5))
    outcome = robustness._outcome(found, "small")
    lost = Entry.of("lambda 3", 1, "of 2 seeds diverged", 0, "accuracy")
    assert lost in outcome.entries
    assert Entry.of("lambda 1", [80, 70], "%", 2, "accuracy") in outcome.entries
