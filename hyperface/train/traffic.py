"""What the devices of a training step send each other, from shapes alone."""

from typing import NamedTuple

from hyperface.train.memory import Sizes


class Traffic(NamedTuple):
    """Bytes that one device sends in a step, by what they are of; as many arrive."""

    backbone: int
    """Gradients of what every device holds, added up."""
    agents: int
    """Gradients of agents that every device holds, added up; 0 where they are split."""
    features: int
    """Features gathered, the own class' agents fetched, and the features' gradient returned; 0
    where agents are not split."""

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self)


def traffic(
    sizes: Sizes, feature_dim: int, num_devices: int, *, shard_agents: bool, terms: int = 1
) -> Traffic:
    """What each device sends in a step, by ring collectives.

    Of an array of s bytes a device sends s (n-1)/n to gather or to reduce-scatter it, and twice
    that to add it up everywhere. A few numbers an example, metrics for one, are left out.

    Args:
      sizes: of the run.
      feature_dim: of the features, which travel in float32.
      num_devices: n.
      shard_agents: whether agents are split over them.
      terms: sweeps over agents of their own, each with a gradient to return; terms that share
        agents are one.

    Example:
      >>> run = Sizes(10**7, 1024, 2048, 2052, 200 * 2**20, 100 * 2**20, 25 * 2**20)
      >>> split = traffic(run, 512, 8, shard_agents=True)
      >>> whole = traffic(run, 512, 8, shard_agents=False)
      >>> print(split.features / 2**20, whole.agents / 2**20)
      5.25 34179.6875
    """

    def sent(size: float) -> int:
        return round(size * (num_devices - 1) / num_devices)

    features = 4 * sizes.batch_size * feature_dim
    agents = sizes.num_classes * sizes.class_params * sizes.sample_rate
    return Traffic(
        backbone=2 * sent(sizes.other_params),
        agents=0 if shard_agents else 2 * sent(agents),
        features=(2 + terms) * sent(features) if shard_agents else 0,
    )
