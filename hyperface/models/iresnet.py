"""Improved residual networks (IResNet), the usual backbones of face work since ArcFace."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from hyperface.models.layers import Backbone, PReLU
from hyperface.models.norm import Affine, BatchNorm


class IResNet(Backbone):
    """A residual network of four stages with batch normalisation (BN).

    It maps images [batch, height, width, channels] to features [batch, feature_dim] in float32.

    A block is BN, conv, BN, PReLU, conv, BN. The first block of each stage has stride 2, and its
    shortcut is a 1 x 1 convolution with BN. BN, the linear feature layer, and a BN without a scale
    follow the last block. The last feature map of 112 x 112 images is 7 x 7 x 512. Convolution
    weights are initialised with standard deviation 0.1.

    Attributes:
      blocks: number of blocks of each stage.
      widths: number of channels of each stage.
      folded: build the form for deployment, which has no batch statistics. A BN behind a
        convolution or the feature layer is merged ("folded") into that layer, which then has a
        bias. Any other BN becomes a scale and a bias per channel.
    """

    blocks: Sequence[int] = (3, 4, 14, 3)
    widths: Sequence[int] = (64, 128, 256, 512)
    folded: bool = False

    # `Backbone` has a class variable of this name. A property can stand in for it, because callers
    # read it from instances only.
    @property
    def batch_norm(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether the network has batch statistics: False only if `folded`, the form to deploy."""
        return not self.folded

    @nn.compact
    def __call__(
        self,
        images: jax.Array,
        *,
        train: bool = False,
        counted: jax.Array | None = None,
        axis_name: str | None = None,
    ) -> jax.Array:
        """Returns the features [batch, feature_dim] in float32.

        Args:
          images: [batch, height, width, channels] floats in [-1, 1].
          train: normalise by the batch's statistics, and update the collection "batch_stats", which
            must then be mutable.
          counted: [batch] True for an example and False for padding, which the statistics leave
            out; None counts all.
          axis_name: name of the mapped axis over which the batch is split; None if it is not split.
        """
        block_of = nn.remat(_Block) if self.remat else _Block
        norm = _norms(self.folded, self.dtype, train, axis_name, counted)
        conv = _conv(self.widths[0], 3, 1, self.dtype, "conv1", bias=self.folded)
        x = conv(self.first(images, "conv1"))
        x = PReLU(name="prelu1")(x if self.folded else norm("norm1", x))
        for stage, (width, blocks) in enumerate(zip(self.widths, self.blocks, strict=True), 1):
            for block in range(1, blocks + 1):
                made = block_of(
                    width,
                    2 if block == 1 else 1,
                    self.folded,
                    train,
                    axis_name,
                    self.dtype,
                    name=f"block{stage}_{block}",
                )
                x = made(x, counted)
        x = self.flat(norm("norm2", x), images, "feature")
        # PyTorch's default for linear layers: uniform in +-1 / sqrt(fan_in).
        uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
        feature = nn.Dense(self.feature_dim, kernel_init=uniform, dtype=self.dtype, name="feature")
        x = feature(x)
        if self.folded:
            return x.astype(jnp.float32)
        # Float32 even if the layers compute in bfloat16: the losses need the precision.
        return norm("norm_feature", x, scaled=False, dtype=jnp.float32)


class _Block(nn.Module):
    """A residual block: BN, conv, BN, PReLU, conv, BN, and the sum with the shortcut.

    Attributes:
      width: number of channels of the output.
      stride: stride of the second convolution and of the shortcut.
      folded: as in `IResNet`.
      train: as in `IResNet.__call__`.
      axis_name: as in `IResNet.__call__`.
      dtype: type that the layers compute in.
    """

    width: int
    stride: int
    folded: bool
    train: bool
    axis_name: str | None
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array, counted: jax.Array | None) -> jax.Array:
        norm = _norms(self.folded, self.dtype, self.train, self.axis_name, counted)

        def conv(x: jax.Array, kernel: int, stride: int, name: str, norm_name: str) -> jax.Array:
            # A bias in front of batch normalisation would have no effect.
            x = _conv(self.width, kernel, stride, self.dtype, name, bias=self.folded)(x)
            return x if self.folded else norm(norm_name, x)

        branch = conv(norm("norm1", x), 3, 1, "conv1", "norm2")
        branch = conv(PReLU(name="prelu")(branch), 3, self.stride, "conv2", "norm3")
        if self.stride != 1 or x.shape[-1] != self.width:
            x = conv(x, 1, self.stride, "shortcut", "norm_shortcut")
        return x + branch


def _norms(
    folded: bool,
    dtype: DTypeLike,
    train: bool,
    axis_name: str | None,
    counted: jax.Array | None,
) -> Callable[..., jax.Array]:
    """Returns a function (name, x) that applies the batch normalisation of that name to x.

    In the folded form, it applies a factor and a term per channel instead. Further keywords of the
    function are attributes of `BatchNorm`.
    """

    def norm(name: str, x: jax.Array, **settings: Any) -> jax.Array:
        if folded:
            return Affine(name=name, dtype=dtype)(x)
        chosen: dict[str, Any] = {"dtype": dtype} | settings
        layer = BatchNorm(name=name, **chosen)
        return layer(x, train=train, counted=counted, axis_name=axis_name)

    return norm


def _conv(
    width: int, kernel: int, stride: int, dtype: DTypeLike, name: str, *, bias: bool
) -> nn.Conv:
    return nn.Conv(
        width,
        (kernel, kernel),
        strides=stride,
        # In numbers, as in PyTorch: at stride 2 Flax's "SAME" would pad only one side.
        padding=kernel // 2,
        use_bias=bias,
        kernel_init=nn.initializers.normal(0.1),
        dtype=dtype,
        name=name,
    )
