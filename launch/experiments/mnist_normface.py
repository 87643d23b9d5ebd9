"""NormFace's MNIST toy: three-dimensional features on the sphere, scaled softmax.

Source: NormFace's released MNIST files: the 3x3 LeNet, batch 128, learning rate 0.1.
"""

import dataclasses

from hyperface.train.experiment import Data, Loss, Model, Optimizer, SoftmaxTerm
from launch.experiments import mnist_ring

EXPERIMENT = dataclasses.replace(
    mnist_ring.EXPERIMENT,
    name="mnist-normface",
    data=Data(name="mnist", batch_size=128, mirror=False),
    model=Model(name="lenet-normface", feature_dim=3),
    loss=Loss(softmax=SoftmaxTerm(scale=7.0)),
    optimizer=Optimizer(learning_rate=0.1, boundaries=(1200, 1700)),
    compare=(),
)
