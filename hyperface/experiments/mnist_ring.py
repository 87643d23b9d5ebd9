"""Trains two-dimensional features of MNIST with softmax and Ring loss, as in Ring loss' Figure 1.

Source: Ring loss, Figures 1, 4 and 5. The paper does not state the network, the solver, the batch
  size or lambda. Network, learning rate, momentum and decay are those of the code that was released
  under the name of Ring loss, where the weight 0.01 means lambda = 0.02.
Command: hyperface train mnist-ring
Data: MNIST, by hyperface prepare mnist, or from a folder with its files and --out mnist.
Time: 18 minutes on two CPU cores for each of mnist-ring and mnist-softmax.
Published: 99.34 % (Ring loss, Figure 1).
Measured: 98.41 %. The paper does not state its number of steps.
"""

from hyperface.config.experiment import Data, Evaluation, Experiment, Model, Optimizer
from hyperface.config.loss import Loss, RingTerm, SoftmaxTerm

EXPERIMENT = Experiment(
    name="mnist-ring",
    steps=2000,
    log_every=20,
    checkpoint_every=500,
    # A mirrored digit is often no digit.
    data=Data(name="mnist", batch_size=128, mirror=False),
    model=Model(name="lenet", feature_dim=2),
    loss=Loss(
        softmax=SoftmaxTerm(normalize="none", scale=1.0),
        # The released code has no factor 1/2 before its weight, unlike the paper's lambda.
        ring=RingTerm(weight=0.02),
    ),
    optimizer=Optimizer(learning_rate=0.01, boundaries=(1000, 1750), factor=0.8),
    evaluation=Evaluation(protocol="classification", mirror="none", batch_size=500),
    compare=("mnist-softmax",),
)
