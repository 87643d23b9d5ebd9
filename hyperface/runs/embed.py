"""Writes the features of photos to a file that other programs, and hyperface evaluate, read.

    hyperface embed photos/ --run runs/mine --out features.npz
    hyperface embed photos/ --run net.onnx --out features.npz --faces all
    hyperface embed crops/ --run runs/mine --out features.npz --aligned

Faces are found, aligned to the size that the network takes, and embedded. Photos without a face are
listed. The file contains these arrays, with one row per face:

- `names`: the path of the photo in the folder; PHOTO#2 is the photo's second face.
- `features`: the features, which are not normalised.
- `norms`: the length of the feature without the mirror image, which indicates quality.
- `landmarks`: [5, 2] points in pixels of the photo.

It also contains `model`, the digest of the network, and `mirror`, how features of mirror images
were merged. A calibration that is fitted on the features records both.

From Python:

    from hyperface.runs import embed
    found = embed.embed("photos", "runs/mine")
    print(found.names[0], found.features[0])
"""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import tyro

from hyperface import owned
from hyperface.errors import InputError, expect
from hyperface.runs import next_steps, program

log = logging.getLogger("hyperface")

if TYPE_CHECKING:  # jax and NumPy are loaded after the options are parsed.
    import numpy as np

    from hyperface.data.detection import Detector
    from hyperface.runs.embedding import Network
    from hyperface.runs.photos import Face, Faces, Features, NotUsed

PART = 1024
"""Number of photos whose faces are found before they are embedded. Only the pixels of these faces
are in memory at once."""
SHOWN = 10
"""Largest number of photos without a face that are logged."""


@dataclasses.dataclass(frozen=True)
class Embed:
    """Options of `hyperface embed`."""

    images: tyro.conf.Positional[Path]
    """A photo, or a folder of photos."""
    run: Path
    """The network: folder of a run or of an export, or a file of weights."""
    out: Path
    """The file to write, ending in .npz."""
    faces: Literal["largest", "central", "all"] = "largest"
    """Which faces are used if a photo has several. largest: the largest one, with a preference for
    the centre. central: the one nearest to the centre. all: all of them."""
    aligned: bool = False
    """The images are aligned faces of the network's image size already, and are used whole. Without
    it, faces are found in the photos and aligned."""
    checkpoint: int | None = None
    """Step of the run's checkpoint; the newest by default."""
    mirror: Literal["none", "sum", "max", "concat"] | None = None
    """How features of image and mirror image are merged: none (no mirror image), sum, max (of each
    component) or concat. By default as in the run."""


class EmbeddedPhotos(NamedTuple):
    """Features of the faces of photos."""

    names: list[str]
    """Name of each face: that of its photo, such as "a.jpg". A second face of that photo is named
    "a.jpg#2"."""
    features: "np.ndarray"
    """[faces, dim] float32, merged with the features of the mirror images, not normalised."""
    norms: "np.ndarray"
    """[faces] Euclidean norm of the feature of the image itself, before the merge."""
    landmarks: "np.ndarray"
    """[faces, 5, 2] eyes, nose and corners of the mouth as (x, y) in pixels of the photo; NaN for
    images that were aligned already."""
    not_used: "list[NotUsed]"
    """The photos without a usable face, and the reasons."""


def main(args: Sequence[str]) -> None:
    """Parses the options, then loads JAX and embeds the photos."""
    options = program.parse(Embed, args, prog="hyperface embed", description=__doc__ or "")
    npz = options.out.suffix.lower() == ".npz"
    expect(npz, "--out", "a file that ends in .npz", options.out)
    # Checked before JAX is loaded and thousands of photos are embedded, not when it is written.
    owned.check_free(options.out)

    program.quiet_libraries()
    found = embed(
        options.images,
        options.run,
        out=options.out,
        faces=options.faces,
        aligned=options.aligned,
        checkpoint=options.checkpoint,
        mirror=options.mirror,
    )
    log_not_used(found.not_used)
    dim = found.features.shape[1]
    log.info(f"{options.out}: features of {len(found.names):,} faces, {dim} dimensions")
    # The protocol "folder" takes the part of a name before the slash as the person.
    if all("/" in name for name in found.names):
        again = next_steps.command("evaluate", options.out, "--protocol", "folder")
        log.info(
            "If each person has a folder, and the network was not trained on these people, score "
            f"them: {again}"
        )


def embed(
    images: Path | str,
    run: Path | str,
    *,
    out: Path | str | None = None,
    faces: Literal["largest", "central", "all"] = "largest",
    aligned: bool = False,
    checkpoint: int | None = None,
    mirror: Literal["none", "sum", "max", "concat"] | None = None,
    detector: "Detector | None" = None,
) -> EmbeddedPhotos:
    """Finds the faces of photos, and computes their features.

    Args:
      images: a photo, or a folder of photos.
      run: folder of a run or of an export, or a file of weights.
      out: the .npz file to write; None writes none.
      faces: which faces are used if a photo has several: "largest", "central" (nearest to the
        centre) or "all".
      aligned: whether the images are aligned faces of the network's image size already. They are
        then used whole, and the detector is not called.
      checkpoint: step of the run's checkpoint; by default the newest.
      mirror: how the features of an image and of its mirror image are merged: "none" (no mirror
        image), "sum", "max" or "concat". By default as in the run, and "none" for weight files.
      detector: finds the faces. It is a function from one photo, [height, width, 3] uint8, to boxes
        [n, 4], scores [n] and landmarks [n, 5, 2] of its n faces. By default it is MTCNN.

    Returns:
      The features, with the names and landmarks of the faces, and the photos without a usable face.

    Raises:
      InputError: there is no such network, no photo has a face, or the file cannot be written.

    Example:
      >>> found = embed("photos", "runs/mine", out="features.npz")  # doctest: +SKIP
      >>> found.features.shape  # doctest: +SKIP
      (190, 128)
    """
    from hyperface.runs.embedding import open_network

    network = open_network(Path(run), checkpoint, mirror)
    shown, features, not_used = faces_and_features(
        Path(images),
        network,
        faces=faces,
        aligned=aligned,
        detector=detector,
        # 32 kB per face would be gigabytes for a large folder, and nothing shows them.
        keep_pixels=False,
    )
    import numpy as np

    found = EmbeddedPhotos(
        names=[face.name for face in shown],
        features=features.features,
        norms=features.norms,
        landmarks=np.stack([face.landmarks for face in shown]),
        not_used=not_used,
    )
    if out is not None:
        # By these two a calibration that is fitted on the features belongs to the network.
        values = found._asdict() | {"model": network.digest, "mirror": network.mirror}
        arrays = {name: np.asarray(x) for name, x in values.items() if name != "not_used"}
        with owned.writing(Path(out).parent):
            owned.write_arrays(Path(out), **arrays)
    return found


def faces_and_features(
    path: Path,
    network: "Network",
    *,
    faces: "Faces",
    aligned: bool,
    detector: "Detector | None",
    keep_pixels: bool = True,
) -> "tuple[list[Face], Features, list[NotUsed]]":
    """Finds the faces of photos, and computes their features.

    Args:
      path: a photo, or a folder of photos.
      network: the network that computes the features.
      faces: which faces are used if a photo has several: "largest", "central" (nearest to the
        centre), "all", or "one", with which a photo with several faces is not used.
      aligned: whether the images are aligned faces of the network's image size already. They are
        then used whole, and the detector is not called.
      detector: finds the faces. It is a function from one photo, [height, width, 3] uint8, to boxes
        [n, 4], scores [n] and landmarks [n, 5, 2] of its n faces. None uses MTCNN.
      keep_pixels: whether the returned faces keep their pixels, about 32 kB per face. Otherwise
        `Face.pixels` is empty.

    Returns:
      (faces, features, not_used). `features` has one row per face, in the same order. `not_used`
      contains the photos without a usable face, with the reasons.

    Raises:
      InputError: no photo has a usable face, or the network cannot compute features of the faces.
    """
    import numpy as np

    from hyperface.runs import photos

    # Checked first, because loading the detector takes seconds.
    if not aligned:
        photos.check_alignable(network.image_shape)
    if detector is None and not aligned:
        from hyperface.data.detection import Mtcnn

        detector = Mtcnn()
    listed, not_used = photos.list_photos(path)
    shown: list[Face] = []
    parts: list[Features] = []
    with program.progress(f"embedding {path}", "photos") as advance:
        # In parts: the aligned faces of a whole folder may not fit into memory.
        for start in range(0, len(listed), PART):
            found, without = photos.find_faces(
                listed[start : start + PART],
                network.image_shape,
                None if aligned else detector,
                faces,
                lambda done, before=start: advance(before + done, len(listed)),
            )
            not_used += without
            if found:
                parts.append(photos.embed_faces(found, network))
                shown += found if keep_pixels else [face.without_pixels() for face in found]
    if not shown:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in not_used[:3])
        # A single photo is named without its folder, and names in a folder are relative to it.
        where = f"{path.parent}/" if path.is_file() and path.parent != Path() else ""
        raise InputError(f"expected a face that can be used: {where}{reasons}.")
    columns = (np.concatenate(column) for column in zip(*parts, strict=True))
    return shown, photos.Features(*columns), not_used


def log_not_used(not_used: "list[NotUsed]") -> None:
    """Logs how many photos were left out, and the first ten of them with the reasons."""

    if not_used:
        log.info(f"{len(not_used):,} photos left out:")
    for name, reason in not_used[:SHOWN]:
        log.info(f"  {name}: {reason}")
    if len(not_used) > SHOWN:
        log.info(f"  and {len(not_used) - SHOWN:,} more")
