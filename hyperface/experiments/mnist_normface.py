"""Trains three-dimensional features of MNIST on the sphere with scaled softmax, as NormFace does.

Source: NormFace's released MNIST files: the 3x3 LeNet, batch 128, scale 7. The released run has
  25,000 steps at learning rate 0.1. With our initial weights 0.1 diverges (to norms of 1e7), so
  this run has 2,000 steps at 0.01.
Command: hyperface train mnist-normface
Data: MNIST, by hyperface prepare mnist, or from a folder with its files and --out mnist.
Time: 6 minutes on two CPU cores.
Published: 99.49 % at scale 7 (file names of the released figures).
Measured: 98.66 %.
"""

import dataclasses

from hyperface.config.experiment import Data, Model, Optimizer
from hyperface.config.loss import Loss, SoftmaxTerm
from hyperface.experiments import mnist_ring

EXPERIMENT = dataclasses.replace(
    mnist_ring.EXPERIMENT,
    name="mnist-normface",
    # A mirrored digit is often no digit.
    data=Data(name="mnist", batch_size=128, mirror=False),
    model=Model(name="lenet-normface", feature_dim=3),
    loss=Loss(softmax=SoftmaxTerm(scale=7.0)),
    optimizer=Optimizer(learning_rate=0.01, boundaries=(1200, 1700)),
    # mnist-ring is compared with mnist-softmax, and this run with none.
    compare=(),
)
