"""The MNIST toy at a size to repeat: three-dimensional features on the sphere, scaled softmax.

Source: NormFace's released MNIST files, with scale 7, on the smaller net of its Figure 2.
Command: hyperface train mnist-plane-normface
Data: MNIST, by hyperface prepare mnist, or of a folder with its files, --out mnist.
Time: 2 minutes on two CPU cores.
Published: 99.49 % at scale 7 (file names of the released figures), by the net of mnist-normface.
Measured: README, Results.
"""

import dataclasses

from hyperface.config.experiment import Model
from hyperface.config.loss import Loss, SoftmaxTerm
from hyperface.experiments import mnist_plane_softmax

EXPERIMENT = dataclasses.replace(
    mnist_plane_softmax.EXPERIMENT,
    name="mnist-plane-normface",
    model=Model(name="lenet-plane", feature_dim=3),
    loss=Loss(softmax=SoftmaxTerm(scale=7.0)),
)
