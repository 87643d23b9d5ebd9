"""The smallest backbone, for tests of a step that do not depend on the network."""

import pytest
from flax import linen as nn

from hyperface import models


class Linear(nn.Module):
    """One linear layer, which compiles at once."""

    feature_dim: int

    @nn.compact
    def __call__(self, images):
        return nn.Dense(self.feature_dim)(images.reshape(images.shape[0], -1))


@pytest.fixture(autouse=True)
def linear(monkeypatch):
    """Takes that layer in place of every named backbone."""
    monkeypatch.setattr(models, "create", lambda name, feature_dim, **_: Linear(feature_dim))
