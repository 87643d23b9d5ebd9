"""A trained embedder in formats that outlive this library: safetensors, StableHLO, ONNX.

The embedder is images in, features out: the backbone, the merge with the mirror image, and the L2
normalisation. Each `export_...` returns the bytes of a file; each `open_...` makes of such a file
the function from images to features that another program would.
"""

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from hyperface.errors import InputError
from hyperface.evaluate.embed import Mirror, merged
from hyperface.normalize import l2_normalize
from hyperface.weights.files import FORMAT, sealed
from hyperface.weights.load import load_backbone
from hyperface.weights.runs import SavedBackbone

Embed = Callable[[jax.Array], jax.Array]
"""images [batch, height, width, channels] -> features [batch, dim]"""

PLATFORMS = ("cpu", "cuda", "tpu")


def make_embedder(
    saved: SavedBackbone, *, mirror: Mirror = "none", normalize: bool = True
) -> Embed:
    """Returns the function that is exported; its weights are constants in it.

    Args:
      saved: the trained backbone.
      mirror: how features of the image and its mirror image are merged.
      normalize: whether features are scaled to unit length at the end.
    """
    network = saved.network()
    variables = traverse_util.unflatten_dict(saved.arrays, sep="/")
    # Without `mutable`, which nobody passes here, it returns the features alone.
    merge = merged(cast(Callable[[Any, jax.Array], jax.Array], network.apply), mirror)

    def embed(images: jax.Array) -> jax.Array:
        features, _ = merge(variables, images)
        return l2_normalize(features) if normalize else features

    return jax.jit(embed)


def feature_dim(saved: SavedBackbone) -> int:
    """Returns the length of the features of one image, without its mirror image."""
    variables = traverse_util.unflatten_dict(saved.arrays, sep="/")
    images = jax.ShapeDtypeStruct((1, *saved.image_shape), jnp.float32)
    return jax.eval_shape(saved.network().apply, variables, images).shape[1]


def export_safetensors(saved: SavedBackbone) -> bytes:
    """Returns a safetensors file of the backbone's arrays, with metadata and a digest."""
    import safetensors.numpy

    metadata = {
        "format": FORMAT,
        "model": saved.model,
        "feature_dim": str(feature_dim(saved)),
        "input": "float32 [batch, {}, {}, {}], (pixel - 127.5) / 128".format(*saved.image_shape),
        "image_shape": " x ".join(map(str, saved.image_shape)),
    }
    if saved.step is not None:
        metadata["step"] = str(saved.step)
    arrays = {name: np.ascontiguousarray(array) for name, array in saved.arrays.items()}
    return sealed(safetensors.numpy.save(arrays, metadata))


def open_safetensors(
    path: Path, saved: SavedBackbone, *, mirror: Mirror = "none", normalize: bool = True
) -> Embed:
    """Returns the embedder with the weights of such a file, loaded into a fresh backbone."""
    network = saved.network()
    images = jax.ShapeDtypeStruct((1, *saved.image_shape), jnp.float32)
    fresh = jax.eval_shape(network.init, jax.random.key(0), images)
    variables, _ = load_backbone(path, saved.model, fresh)
    loaded = saved._replace(arrays=traverse_util.flatten_dict(variables, sep="/"))
    return make_embedder(loaded, mirror=mirror, normalize=normalize)


def export_stablehlo(embed: Embed, image_shape: tuple[int, int, int]) -> bytes:
    """Returns a program with weights inside, for any batch size, on CPU, CUDA and TPU.

    Any later JAX runs it without this library: `jax.export.deserialize(data).call(images)`.
    """
    from jax import export

    shape = (*export.symbolic_shape("batch"), *image_shape)
    with _without_paths():
        # Lowered for each platform, since the file is used on other machines.
        traced = export.export(jax.jit(embed), platforms=PLATFORMS)
        return bytes(traced(jax.ShapeDtypeStruct(shape, jnp.float32)).serialize())


@contextlib.contextmanager
def _without_paths() -> Iterator[None]:
    """Leaves out where on this machine the code is: equal exports have equal bytes."""
    # Debug information would carry this machine's paths into the file.
    names = {
        "jax_traceback_in_locations_limit": 0,
        "jax_hlo_source_file_canonicalization_regex": ".*",
    }
    before = {name: getattr(jax.config, name) for name in names}
    try:
        for name, value in names.items():
            jax.config.update(name, value)
        yield
    finally:
        # Settings of the whole process, which belong to the caller.
        for name, value in before.items():
            jax.config.update(name, value)


def open_stablehlo(program: bytes, image_shape: tuple[int, int, int], origin: str) -> Embed:
    """Returns the function of such a program.

    Args:
      program: what `export_stablehlo` returned. Compare its digest with the record's first, as
        `exported.read_file` does: the parser trusts its input.
      image_shape: [height, width, channels] that it must take.
      origin: where it is from, for messages.

    Raises:
      InputError: it is no such program, takes other images, or calls code outside of it.
    """
    from jax import export

    try:
        found = export.deserialize(bytearray(program))
        calls = _custom_calls(found.mlir_module_serialized)
        (images,) = found.in_avals
        (features,) = found.out_avals
        takes = (images.dtype.name, tuple(images.shape[1:]), features.ndim)
    except Exception as error:  # Whatever a damaged flatbuffer runs into.
        raise InputError(
            f"{origin}: expected a program of `hyperface export`, found: {str(error)[:100]}."
        ) from None
    if takes != ("float32", tuple(image_shape), 2) or calls - {"shape_assertion"}:
        raise InputError(
            f"{origin}: expected a program of float32 images {list(image_shape)} that calls no "
            f"other code, found {takes} and calls of {sorted(calls)}. Export the run again."
        )
    return found.call


def _custom_calls(module: bytes) -> set[str]:
    """Names of code outside of a program that it calls; JAX itself runs any of them."""
    from jax.interpreters import mlir
    from jaxlib.mlir import ir
    from jaxlib.mlir.dialects import stablehlo

    calls = set()

    def look(operation: ir.Operation) -> ir.WalkResult:
        if operation.name.endswith("custom_call"):
            calls.add(ir.StringAttr(operation.attributes["call_target_name"]).value)
        return ir.WalkResult.ADVANCE

    parsed = stablehlo.deserialize_portable_artifact(mlir.make_ir_context(), module)
    parsed.operation.walk(look)
    return calls


def export_onnx(embed: Embed, image_shape: tuple[int, int, int]) -> bytes:
    """Returns an ONNX model with input "images" and output "features", for any batch size.

    Raises:
      InputError: jax2onnx is not installed, or does not know how to convert the network.
    """
    try:
        import jax2onnx  # pyright: ignore[reportMissingImports]  # An optional one.
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
    """Returns a function that embeds images by an ONNX file, run by ONNX Runtime.

    Raises:
      InputError: onnxruntime is not installed.
    """
    try:
        import onnxruntime  # pyright: ignore[reportMissingImports]  # An extra.
    except ImportError:
        raise InputError(
            "onnx: expected onnxruntime to be installed, to check the file, found none."
        ) from None
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def embed(images: jax.Array) -> jax.Array:
        (features,) = session.run(None, {session.get_inputs()[0].name: np.asarray(images)})
        return cast(jax.Array, features)  # A NumPy array, which does as well.

    return embed


def largest_difference(expected: Embed, found: Embed, image_shape: tuple[int, int, int]) -> float:
    """Returns the largest difference of two embedders, relative to the largest feature.

    Both get the same random batches of 1 and of 3 images.

    Args:
      expected: the run's embedder.
      found: the embedder of an exported file.
      image_shape: [height, width, channels].
    """
    rng = np.random.default_rng(0)
    largest = 0.0
    # Two sizes, as a program may have kept the one that it was traced with.
    for batch in (1, 3):
        pixels = rng.integers(0, 256, (batch, *image_shape))
        images = jnp.asarray((pixels - 127.5) / 128, jnp.float32)
        a, b = np.asarray(expected(images)), np.asarray(found(images))
        if a.shape != b.shape:
            raise ValueError(f"expected features {a.shape}, found {b.shape}")
        # Relative, because un-normalised features have any length.
        largest = max(largest, float(np.abs(a - b).max() / np.abs(a).max()))
    return largest
