"""NormFace's softmax on the ORL faces: 30 people to train, 10 never seen to verify.

Source: NormFace, Eq. 6: features and agents normalised, the scale learned from Proposition 2 on.
"""

from hyperface.train.experiment import Data, Experiment, Optimizer

EXPERIMENT = Experiment(
    name="orl-normface",
    steps=200,
    checkpoint_every=50,
    data=Data(name="orl_faces", batch_size=64, shift=8),
    optimizer=Optimizer(learning_rate=0.02, boundaries=(120, 170)),
    compare=("orl-softmax", "orl-ring"),
)
