"""The MNIST toy at a size to repeat: softmax with Ring loss.

Source: Ring loss, Figures 1, 4 and 5. The paper does not state net, solver or lambda; the net is
  that of NormFace's Figure 2, lambda that of the code released under its name, whose weight 0.01
  is lambda = 0.02.
Command: hyperface train mnist-plane-ring
Data: MNIST, by hyperface prepare mnist, or of a folder with its files, --out mnist.
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
    loss=dataclasses.replace(SOFTMAX.loss, ring=RingTerm(weight=0.02)),
    compare=("mnist-plane-softmax",),
)
