"""Trains a small LeNet with scaled softmax: three-dimensional features of MNIST on the sphere.

It is mnist-normface with a smaller network, so that it can be repeated with several seeds.

Source: NormFace's released MNIST files with scale 7, and the network of its Figure 2.
Command: hyperface train mnist-plane-normface
Data: MNIST, by hyperface prepare mnist, or from a folder with its files and --out mnist.
Time: 2 minutes on two CPU cores.
Published: 99.49 % at scale 7 (file names of the released figures), for mnist-normface's network.
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
