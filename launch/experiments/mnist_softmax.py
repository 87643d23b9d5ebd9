"""The MNIST toy with plain softmax: radial features whose length differs from class to class.

Source: NormFace, Figure 2, and Ring loss, Figures 1a and 4.
Command: python -m launch.train mnist-softmax
Data: MNIST, by python -m launch.prepare mnist, or of a folder with its files, --out mnist.
Time: about 15 minutes on two CPU cores, estimated from 400 steps at 2.3 a second.
Published: 98.97 % (Ring loss, Figure 1).
Measured: 93.04 % after 400 steps (with mnist-ring's options); not run to its end yet.
"""

import dataclasses

from hyperface.objective import Loss, SoftmaxTerm
from launch.experiments import mnist_ring

EXPERIMENT = dataclasses.replace(
    mnist_ring.EXPERIMENT,
    name="mnist-softmax",
    loss=Loss(softmax=SoftmaxTerm(normalize="none", scale=1.0)),
    compare=(),
)
