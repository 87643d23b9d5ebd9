"""Trains IResNet-50 on MS1MV3 with ArcFace, the usual baseline of later face work.

Source: Deng et al., ArcFace (CVPR 2019): s = 64, m = 0.5. Sizes and solver are those of
  insightface's arcface_torch for MS1MV3: batch 1,024, learning rate 0.1, momentum 0.9, decay 5e-4,
  20 epochs of 5.18 million images. That code lowers the learning rate by a polynomial, and here it
  falls in three steps.
Gradient: "released". arcface_torch computes the margin outside of the autograd graph, so that the
  derivative of the target logit with respect to the cosine is s. An earlier version of that code
  differentiates the margin, and uses cos(theta) - m sin(m) where the angle exceeds pi. It is not
  recorded which version trained the published network. The gradient of the paper's equation is
  --loss.margin-softmax.gradient exact.
Command: hyperface train ms1mv3-iresnet50-arcface --model.dtype bfloat16
Data: MS1MV3 (93,431 people, 112 x 112) as MXNet RecordIO, by
  hyperface prepare ms1m-retinaface-t1/train.rec --out ms1mv3 --held-out 300.
Time: not known.
Published: IJB-C TAR 96.37 % at FAR 1e-4 (arcface_torch).
Measured: not run, because the data was not available.
"""

from hyperface.config.experiment import Data, Experiment, Model, Optimizer
from hyperface.config.loss import Loss, MarginTerm, SoftmaxTerm

EXPERIMENT = Experiment(
    name="ms1mv3-iresnet50-arcface",
    steps=100_000,
    log_every=100,
    checkpoint_every=5_000,
    data=Data(name="ms1mv3", batch_size=1024),
    model=Model(name="iresnet-50", feature_dim=512),
    loss=Loss(
        # A loss has the softmax by default; weight 0 leaves it out.
        softmax=SoftmaxTerm(weight=0.0),
        margin_softmax=MarginTerm(weight=1.0, angular_margin=0.5, gradient="released"),
    ),
    optimizer=Optimizer(learning_rate=0.1, boundaries=(50_000, 70_000, 90_000)),
)
