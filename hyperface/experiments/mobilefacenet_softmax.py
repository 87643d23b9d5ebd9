"""Fine-tunes a released MobileFaceNet with plain softmax: the control of the other losses.

Source: NormFace, 5.1, which fine-tunes a published network. New are the data, the network, and that
  only the last layers are trained. The rate is the best by the accuracy of the people held out
  (released network: 96.09 %; 1e-5: 96.02 %; 1e-4: 95.19 %; 1e-3: 93.78 %), and so is that of the
  agents, 10 (1: 94.97 % at 1e-4).
Command: hyperface train mobilefacenet-softmax --init-from net.onnx, with the file of
  docs/how-to/released_weights.md.
Data: images of 112 x 112 of 2,733 people, and 840 of 60 others, by
  python -m hyperface.reproduce.small_faces celeba.zip cfp.zip overlap.csv --out people
  --half-size celeba_56x48.zip --least 5 --square, and
  hyperface prepare people --out faces112 --held-out 60.
Time: 3 minutes on two CPU cores.
Published: none on this data.
Measured: see the results of NormFace in the documentation.
"""

from hyperface.config.experiment import (
    Data,
    Evaluation,
    Experiment,
    Group,
    Groups,
    Model,
    Optimizer,
)
from hyperface.config.loss import Loss, SoftmaxTerm

EXPERIMENT = Experiment(
    name="mobilefacenet-softmax",
    steps=400,
    log_every=20,
    checkpoint_every=200,
    data=Data(name="faces112", batch_size=64),
    model=Model(name="mobilefacenet-folded", feature_dim=512),
    loss=Loss(softmax=SoftmaxTerm(normalize="none", scale=1.0)),
    optimizer=Optimizer(
        learning_rate=1e-5,
        schedule="cosine",
        warm_up=20,
        # The agents start at random. First they alone are trained, then the last layers too.
        freeze_backbone=150,
        frozen=("conv1", "conv2", "block1_*", "block2_*"),
        # Agents that start at random have a long way to go in 400 steps.
        groups=Groups(agents=Group(rate=1e6)),
    ),
    evaluation=Evaluation(batch_size=128),
)
