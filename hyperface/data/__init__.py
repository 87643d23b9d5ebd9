"""Prepares data sets and reads them: sources of images, TFDS without TensorFlow, Grain pipelines.

`sources` opens folders, archives and other collections of images. `store` writes a source as a TFDS
data set, `datasets` opens it, and `pipeline` turns its records into batches. `detection` and
`alignment` bring faces in photos to one place and size; `cleaning` and `overlap` find images and
people that should be left out.
"""

from hyperface.extras import require

require("train", "PIL")
