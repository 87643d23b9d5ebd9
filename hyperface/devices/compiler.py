"""XLA compiler options that make convolutions faster on a CPU."""

from functools import cache

import jax

# By default XLA's CPU backend passes convolutions, matrix products and sums to a library. The
# library's gradients of convolution kernels take three times as long as XLA's own, so convolutions
# stay with XLA. Products and sums go to the library: XLA's own sum over all axes but the last, as
# in the gradient of a bias, takes 30 times as long as the library's. The option's name is
# experimental, and other versions of XLA may not know it.
_CPU = {
    "xla_cpu_experimental_ynn_fusion_type": (
        "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"
    )
}


def options(platform: str | None = None) -> dict[str, str]:
    """Returns the options of XLA's compiler with which convolutions run faster on a CPU.

    Args:
      platform: platform of the devices that run it, such as "cpu"; None takes JAX's default
        platform.

    Returns:
      The options for `jax.jit` and `Lowered.compile`. They are empty on other platforms than a CPU,
      and if this version of XLA does not know them.
    """
    platform = platform or jax.default_backend()
    return dict(_CPU) if platform == "cpu" and _known() else {}


@cache
def _known() -> bool:
    """Returns whether this version of XLA accepts the options, by compiling a small program."""
    try:
        jax.jit(lambda x: x, compiler_options=_CPU).lower(0.0).compile()
    except Exception:  # JAX has no narrower type of error for unknown options.
        return False
    return True
