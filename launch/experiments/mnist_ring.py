"""Ring loss' MNIST toy: two-dimensional features of a deeper LeNet, softmax with Ring loss.

Source: Ring loss, Figures 1, 4 and 5. The paper does not state solver, batch size or lambda; these
are the learning rate, momentum, decay and batch size of the code released under its name.
"""

from hyperface.train.experiment import (
    Data,
    Evaluation,
    Experiment,
    Loss,
    Model,
    Optimizer,
    RingTerm,
    SoftmaxTerm,
)

EXPERIMENT = Experiment(
    name="mnist-ring",
    steps=2000,
    log_every=20,
    checkpoint_every=500,
    data=Data(name="mnist", batch_size=300, mirror=False),
    model=Model(name="lenet", feature_dim=2),
    loss=Loss(
        softmax=SoftmaxTerm(normalize="none", scale=1.0),
        ring=RingTerm(weight=0.02),
    ),
    optimizer=Optimizer(learning_rate=0.01, boundaries=(1000, 1750), factor=0.8),
    evaluation=Evaluation(protocol="classification", mirror="none", batch_size=500),
    compare=("mnist-softmax",),
)
