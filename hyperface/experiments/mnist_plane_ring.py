"""Trains a small LeNet with softmax and Ring loss: two-dimensional features of MNIST.

It is mnist-ring with a smaller network, so that it can be repeated with several seeds.

Source: Ring loss, Figures 1, 4 and 5. The paper does not state the network, the solver or lambda.
  The network is that of NormFace's Figure 2. Lambda is that of the code that was released under the
  name of Ring loss, where the weight 0.01 means lambda = 0.02.
Command: hyperface train mnist-plane-ring
Data: MNIST, by hyperface prepare mnist, or from a folder with its files and --out mnist.
Time: 2 minutes on two CPU cores for each of mnist-plane-ring and mnist-plane-softmax.
Published: 99.34 % (Ring loss, Figure 1).
Measured: README, Results.
"""

import dataclasses

from hyperface.config.loss import RingTerm
from hyperface.experiments import mnist_plane_softmax

SOFTMAX = mnist_plane_softmax.EXPERIMENT

EXPERIMENT = dataclasses.replace(
    SOFTMAX,
    name="mnist-plane-ring",
    # The released code has no factor 1/2 before its weight, unlike the paper's lambda.
    loss=dataclasses.replace(SOFTMAX.loss, ring=RingTerm(weight=0.02)),
    compare=("mnist-plane-softmax",),
)
