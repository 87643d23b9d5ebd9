"""A trained embedder in formats that outlive this library: safetensors, StableHLO, ONNX.

The embedder is images in, features out: the backbone, the merge with the mirror image, and the L2
normalisation. Each `export_...` returns the bytes of a file; each `open_...` makes of such a file
the function from images to features that another program would.
"""

import logging
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from hyperface import models
from hyperface.errors import InputError
from hyperface.evaluate.embed import Mirror, merged
from hyperface.normalize import l2_normalize
from hyperface.weights.files import FORMAT
from hyperface.weights.load import load_backbone
from hyperface.weights.runs import SavedBackbone

Embed = Callable[[jax.Array], jax.Array]
"""images [batch, height, width, channels] -> features [batch, dim]"""

PLATFORMS = ("cpu", "cuda", "tpu")


def make_embedder(
    saved: SavedBackbone, *, mirror: Mirror = "none", normalize: bool = True
) -> Embed:
    """The function that is exported; its weights are constants in it.

    Args:
      saved: the trained backbone.
      mirror: how features of the image and its mirror image are merged.
      normalize: whether features are scaled to unit length at the end.
    """
    network = models.create(saved.model, saved.experiment["model"]["feature_dim"])
    variables = traverse_util.unflatten_dict(saved.arrays, sep="/")
    merge = merged(network.apply, mirror)

    def embed(images: jax.Array) -> jax.Array:
        features, _ = merge(variables, images)
        return l2_normalize(features) if normalize else features

    return jax.jit(embed)


def export_safetensors(saved: SavedBackbone) -> bytes:
    """The backbone's arrays by their paths; the metadata says what they are."""
    import safetensors.numpy

    metadata = {
        "format": FORMAT,
        "model": saved.model,
        "feature_dim": str(saved.experiment["model"]["feature_dim"]),
        "input": "float32 [batch, {}, {}, {}], (pixel - 127.5) / 128".format(*saved.image_shape),
        "step": str(saved.step),
    }
    arrays = {name: np.ascontiguousarray(array) for name, array in saved.arrays.items()}
    return safetensors.numpy.save(arrays, metadata)


def open_safetensors(
    path: Path, saved: SavedBackbone, *, mirror: Mirror = "none", normalize: bool = True
) -> Embed:
    """The embedder with the weights of such a file, loaded into a fresh backbone."""
    network = models.create(saved.model, saved.experiment["model"]["feature_dim"])
    images = jax.ShapeDtypeStruct((1, *saved.image_shape), jnp.float32)
    fresh = jax.eval_shape(network.init, jax.random.key(0), images)
    variables, _ = load_backbone(path, saved.model, fresh)
    loaded = saved._replace(arrays=traverse_util.flatten_dict(variables, sep="/"))
    return make_embedder(loaded, mirror=mirror, normalize=normalize)


def export_stablehlo(embed: Embed, image_shape: tuple[int, int, int]) -> bytes:
    """A program with weights inside, for any batch size, on CPU, CUDA and TPU.

    Any later JAX runs it without this library: `jax.export.deserialize(data).call(images)`.
    """
    from jax import export

    shape = (*export.symbolic_shape("batch"), *image_shape)
    traced = export.export(jax.jit(embed), platforms=PLATFORMS)
    return bytes(traced(jax.ShapeDtypeStruct(shape, jnp.float32)).serialize())


def open_stablehlo(path: Path) -> Embed:
    """The program of such a file."""
    from jax import export

    return export.deserialize(bytearray(Path(path).read_bytes())).call


def export_onnx(embed: Embed, image_shape: tuple[int, int, int]) -> bytes:
    """An ONNX model with input "images" and output "features", for any batch size.

    Raises:
      InputError: jax2onnx is not installed, or does not know how to convert the network.
    """
    try:
        import jax2onnx
    except ImportError:
        raise InputError("onnx: expected jax2onnx to be installed, found none.") from None
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)
    # Its own tracing promotes ranks, and warns of float64 that nobody asked for.
    with jax.numpy_rank_promotion("allow"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model = jax2onnx.to_onnx(
                embed,
                [("batch", *image_shape)],
                input_names=["images"],
                output_names=["features"],
                return_mode="proto",
            )
        except Exception as error:  # It fails in its own ways where it has no rule for a layer.
            raise InputError(
                f"onnx: expected a network that jax2onnx {version('jax2onnx')} converts, found "
                f"that it does not ({str(error)[:200]}). Take stablehlo."
            ) from error
    return model.SerializeToString()


def open_onnx(path: Path) -> Embed:
    """The model of such a file by ONNX Runtime.

    Raises:
      InputError: onnxruntime is not installed.
    """
    try:
        import onnxruntime
    except ImportError:
        raise InputError(
            "onnx: expected onnxruntime to be installed, to check the file, found none."
        ) from None
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def embed(images: jax.Array) -> jax.Array:
        (features,) = session.run(None, {session.get_inputs()[0].name: np.asarray(images)})
        return features

    return embed


def largest_difference(expected: Embed, found: Embed, image_shape: tuple[int, int, int]) -> float:
    """Largest difference of a feature over batches of 1 and 3 images, beside the largest feature.

    Args:
      expected: the run's embedder.
      found: what a file makes of the same images.
      image_shape: [height, width, channels].
    """
    rng = np.random.default_rng(0)
    largest = 0.0
    for batch in (1, 3):
        pixels = rng.integers(0, 256, (batch, *image_shape))
        images = jnp.asarray((pixels - 127.5) / 128, jnp.float32)
        a, b = np.asarray(expected(images)), np.asarray(found(images))
        if a.shape != b.shape:
            raise ValueError(f"expected features {a.shape}, found {b.shape}")
        largest = max(largest, float(np.abs(a - b).max() / np.abs(a).max()))
    return largest
