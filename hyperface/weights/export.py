"""Exports a trained embedder as safetensors, StableHLO or ONNX, for use without this library.

An embedder is a function from images to features: the backbone, the merge with the features of the
mirror image, and the L2 normalisation. Each `export_...` function returns the bytes of a file. Each
`open_...` function reads such a file back as another program would, and returns the embedder.
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
    """Returns the embedder of a trained backbone: a jitted function from images to features.

    The weights are constants of the function. Images are [batch, height, width, channels] float32,
    scaled by (pixel - 127.5) / 128. Features are [batch, dim].

    Args:
      saved: the trained backbone.
      mirror: how the features of an image and of its mirror image are merged: "none" uses only the
        image, "sum" adds both features, "max" is their elementwise maximum, and "concat" joins them
        to twice the length.
      normalize: whether the merged features are scaled to unit length.
    """
    network = saved.network()
    variables = traverse_util.unflatten_dict(saved.arrays, sep="/")
    # `apply` returns a pair only if it is given `mutable`, which we do not pass.
    merge = merged(cast(Callable[[Any, jax.Array], jax.Array], network.apply), mirror)

    def embed(images: jax.Array) -> jax.Array:
        features, _ = merge(variables, images)
        return l2_normalize(features) if normalize else features

    return jax.jit(embed)


def feature_dim(saved: SavedBackbone) -> int:
    """Returns the number of values of a feature, before the merge with that of the mirror image."""
    variables = traverse_util.unflatten_dict(saved.arrays, sep="/")
    images = jax.ShapeDtypeStruct((1, *saved.image_shape), jnp.float32)
    return jax.eval_shape(saved.network().apply, variables, images).shape[1]


def export_safetensors(saved: SavedBackbone) -> bytes:
    """Returns the bytes of a safetensors file: the backbone's arrays, metadata and a digest.

    The metadata name the network, the feature size and the expected images. `load_backbone` reads
    such a file.
    """
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
    # safetensors writes an array's memory as it lies, so a transposed view would be garbled.
    arrays = {name: np.ascontiguousarray(array) for name, array in saved.arrays.items()}
    return sealed(safetensors.numpy.save(arrays, metadata))


def open_safetensors(
    path: Path, saved: SavedBackbone, *, mirror: Mirror = "none", normalize: bool = True
) -> Embed:
    """Returns the embedder of an exported safetensors file.

    An embedder is a function from images [batch, height, width, channels] to features [batch, dim].

    Args:
      path: the file.
      saved: the backbone that was exported. A new network of the same architecture is built, and
        gets the arrays of the file; those in `saved` are not used.
      mirror: how the features of an image and of its mirror image are merged: "none" uses only the
        image, "sum" adds both features, "max" is their elementwise maximum, and "concat" joins them
        to twice the length.
      normalize: whether the merged features are scaled to unit length.
    """
    network = saved.network()
    images = jax.ShapeDtypeStruct((1, *saved.image_shape), jnp.float32)
    fresh = jax.eval_shape(network.init, jax.random.key(0), images)
    variables, _ = load_backbone(path, saved.model, fresh)
    loaded = saved._replace(arrays=traverse_util.flatten_dict(variables, sep="/"))
    return make_embedder(loaded, mirror=mirror, normalize=normalize)


def export_stablehlo(embed: Embed, image_shape: tuple[int, int, int]) -> bytes:
    """Returns a serialised StableHLO program that contains the weights.

    The program takes any batch size and runs on CPU, CUDA and TPU. A later JAX runs it without this
    library: `jax.export.deserialize(data).call(images)`.

    Args:
      embed: the embedder, a function from images [batch, height, width, channels] to features
        [batch, dim], as `make_embedder` returns it.
      image_shape: [height, width, channels] of the images.
    """
    from jax import export

    shape = (*export.symbolic_shape("batch"), *image_shape)
    with _without_paths():
        # By default JAX lowers for this machine's platform only; the file is used on others.
        traced = export.export(jax.jit(embed), platforms=PLATFORMS)
        return bytes(traced(jax.ShapeDtypeStruct(shape, jnp.float32)).serialize())


@contextlib.contextmanager
def _without_paths() -> Iterator[None]:
    """Keeps this machine's file paths out of the program, so that equal exports are equal bytes."""
    # JAX's debug information names the source file of each operation. No traceback and a pattern
    # that removes every path leave nothing of it.
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
        # These settings are global to the process, so the caller's values are put back.
        for name, value in before.items():
            jax.config.update(name, value)


def open_stablehlo(program: bytes, image_shape: tuple[int, int, int], origin: str) -> Embed:
    """Returns the embedder of an exported StableHLO program.

    An embedder is a function from images [batch, height, width, channels] to features [batch, dim].

    Args:
      program: the bytes that `export_stablehlo` returned. JAX's parser does not check them
        for damage. So read the file by `exported.read_file`, which compares its digest with the one
        in `embedder.json`.
      image_shape: the expected [height, width, channels] of the images.
      origin: the file or folder that the program comes from, for messages.

    Raises:
      InputError: the bytes are not such a program, or the program takes images of another shape or
        calls code outside of itself.
    """
    from jax import export

    try:
        found = export.deserialize(bytearray(program))
        calls = _custom_calls(found.mlir_module_serialized)
        (images,) = found.in_avals
        (features,) = found.out_avals
        takes = (images.dtype.name, tuple(images.shape[1:]), features.ndim)
    # A damaged flatbuffer fails with many kinds of errors, and JAX documents none of them.
    except Exception as error:
        raise InputError(
            f"{origin}: expected a program of `hyperface export`, found: {str(error)[:100]}."
        ) from None
    # A symbolic batch size makes JAX add calls of "shape_assertion". Any other custom call would
    # run code that is not part of the file.
    if takes != ("float32", tuple(image_shape), 2) or calls - {"shape_assertion"}:
        raise InputError(
            f"{origin}: expected a program of float32 images {list(image_shape)} that calls no "
            f"other code, found {takes} and calls of {sorted(calls)}. Export the run again."
        )
    return found.call


def _custom_calls(module: bytes) -> set[str]:
    """Returns the names of the external functions that a program calls.

    JAX itself would run any of them without asking.

    Args:
      module: the program as a portable StableHLO artifact.
    """
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
    """Returns the bytes of an ONNX model from "images" to "features", for any batch size.

    Args:
      embed: the embedder, a function from images to features, as `make_embedder` returns it.
      image_shape: [height, width, channels] of the images.

    Raises:
      InputError: jax2onnx is not installed, or does not know how to convert the network.
    """
    try:
        import jax2onnx  # pyright: ignore[reportMissingImports]  # An optional dependency.
    except ImportError:
        raise InputError("onnx: expected jax2onnx to be installed, found none.") from None
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)
    # jax2onnx relies on rank promotion when it traces, and warns of float64 that is not used.
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
        # jax2onnx raises many kinds of errors for a layer that it has no rule for.
        except Exception as error:
            raise InputError(
                f"onnx: expected a network that jax2onnx {version('jax2onnx')} converts, found "
                f"that it does not ({str(error)[:200]}). Take stablehlo."
            ) from error
    return model.SerializeToString()


def open_onnx(path: Path) -> Embed:
    """Returns the embedder of an ONNX file.

    An embedder is a function from images [batch, height, width, channels] to features [batch, dim].
    ONNX Runtime runs it on the CPU.

    Raises:
      InputError: onnxruntime is not installed.
    """
    try:
        import onnxruntime  # pyright: ignore[reportMissingImports]  # An optional dependency.
    except ImportError:
        raise InputError(
            "onnx: expected onnxruntime to be installed, to check the file, found none."
        ) from None
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def embed(images: jax.Array) -> jax.Array:
        (features,) = session.run(None, {session.get_inputs()[0].name: np.asarray(images)})
        return cast(jax.Array, features)  # A NumPy array, which callers can use in the same way.

    return embed


def largest_difference(expected: Embed, found: Embed, image_shape: tuple[int, int, int]) -> float:
    """Returns the largest difference between the features of two embedders.

    An embedder is a function from images [batch, height, width, channels] to features [batch, dim].
    Both embedders get the same two random batches, of 1 and of 3 images. In each batch, the largest
    absolute difference is divided by the largest absolute value of the features of `expected`; the
    larger of the two results is returned. It is NaN if a feature is NaN or infinite.

    Args:
      expected: the embedder of the run.
      found: the embedder of an exported file.
      image_shape: [height, width, channels] of the images.

    Raises:
      ValueError: the features have different shapes.
    """
    rng = np.random.default_rng(0)
    differences = []
    # Two batch sizes, because an export may have fixed the size that it was traced with.
    for batch in (1, 3):
        pixels = rng.integers(0, 256, (batch, *image_shape))
        images = jnp.asarray((pixels - 127.5) / 128, jnp.float32)
        a, b = np.asarray(expected(images)), np.asarray(found(images))
        if a.shape != b.shape:
            raise ValueError(f"expected features {a.shape}, found {b.shape}")
        # Relative, because un-normalised features may have any length. Infinite features, and
        # features that are all zero, give NaN, which the caller refuses; a warning adds nothing.
        with np.errstate(invalid="ignore"):
            differences.append(np.abs(a - b).max() / np.abs(a).max())
    # Not Python's max, which drops a NaN.
    return float(np.max(differences))
