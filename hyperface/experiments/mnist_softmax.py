"""Trains two-dimensional features of MNIST with plain softmax; their norms differ by class.

Source: NormFace, Figure 2, and Ring loss, Figures 1a and 4.
Command: hyperface train mnist-softmax
Data: MNIST, by hyperface prepare mnist, or from a folder with its files and --out mnist.
Time: 18 minutes on two CPU cores.
Published: 98.97 % (Ring loss, Figure 1).
Measured: 98.01 %.
"""

import dataclasses

from hyperface.config.loss import Loss, SoftmaxTerm
from hyperface.experiments import mnist_ring

EXPERIMENT = dataclasses.replace(
    mnist_ring.EXPERIMENT,
    name="mnist-softmax",
    loss=Loss(softmax=SoftmaxTerm(normalize="none", scale=1.0)),
    compare=(),
)
