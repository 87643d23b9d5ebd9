"""Prepares data sets and reads them: sources of images, TFDS without TensorFlow, Grain pipelines.

`sources` opens folders, archives and other collections of images. `store` writes a source as a TFDS
data set, `datasets` opens it, and `pipeline` turns its records into batches. `detection` finds the
faces in photos, and `alignment` moves each face to the same position and size. `cleaning` and
`overlap` find images and people that should be left out.
"""

from hyperface.extras import require

require("train", "PIL")
