"""The MNIST toy at a size to repeat: plain softmax, two-dimensional features of a small LeNet.

Source: NormFace, Figure 2: the net of its released file, batch 128. The file's linear layers start
  at standard deviation 0.001 and its run lasts 20,000 steps; xavier needs fewer.
Command: hyperface train mnist-plane-softmax
Data: MNIST, by hyperface prepare mnist, or of a folder with its files, --out mnist.
Time: 2 minutes on two CPU cores.
Published: 98.97 % (Ring loss, Figure 1, whose net is not stated).
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
