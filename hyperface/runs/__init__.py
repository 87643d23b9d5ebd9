"""Carries out the commands, and offers each of them as a function for Python and notebooks.

from hyperface.runs import embed, prepare, train, verify

prepare.prepare(prepare.Prepare("photos/", out="mine", detect=True))
run = train.train("mine", workdir="runs/mine")
print(run.scores)
print(embed.embed("photos/", "runs/mine").features.shape)
print(verify.verify("one.jpg", "other.jpg", run="runs/mine").best.similarity)
"""

from hyperface.extras import require

require("train", "tyro", "rich")
