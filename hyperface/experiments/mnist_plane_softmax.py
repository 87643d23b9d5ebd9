"""Trains a small LeNet with plain softmax: two-dimensional features of MNIST.

It is mnist-softmax with a smaller network, so that it can be repeated with several seeds.

Source: NormFace, Figure 2: the network of its released file, batch 128. The file initialises linear
  layers with standard deviation 0.001, and its run has 20,000 steps. Xavier initialisation needs
  fewer steps.
Command: hyperface train mnist-plane-softmax
Data: MNIST, by hyperface prepare mnist, or from a folder with its files and --out mnist.
Time: 2 minutes on two CPU cores.
Published: 98.97 % (Ring loss, Figure 1, for a network that is not stated).
Measured: README, Results.
"""

from hyperface.config.experiment import (
    Data,
    Evaluation,
    Experiment,
    Group,
    Groups,
    Model,
    Optimizer,
)
from hyperface.config.loss import Loss, SoftmaxTerm

EXPERIMENT = Experiment(
    name="mnist-plane-softmax",
    steps=2000,
    log_every=20,
    checkpoint_every=500,
    data=Data(name="mnist", batch_size=128, mirror=False),
    model=Model(name="lenet-plane", feature_dim=2),
    loss=Loss(softmax=SoftmaxTerm(normalize="none", scale=1.0)),
    # The released file does not decay the agents.
    optimizer=Optimizer(
        learning_rate=0.02, boundaries=(1200, 1700), groups=Groups(agents=Group(decay=0.0))
    ),
    evaluation=Evaluation(protocol="classification", mirror="none", batch_size=500),
)
