"""The MNIST toy with plain softmax: radial features whose length differs from class to class.

Source: NormFace, Figure 2, and Ring loss, Figures 1a and 4.
"""

import dataclasses

from hyperface.train.experiment import Loss, SoftmaxTerm
from launch.experiments import mnist_ring

EXPERIMENT = dataclasses.replace(
    mnist_ring.EXPERIMENT,
    name="mnist-softmax",
    loss=Loss(softmax=SoftmaxTerm(normalize="none", scale=1.0)),
    compare=(),
)
