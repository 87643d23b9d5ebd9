"""Options for XLA that a backbone's speed on a CPU depends on."""

from functools import cache

import jax

# XLA's CPU backend hands convolutions to a library whose gradients of kernels take three times as
# long as XLA's own; dots stay with it. The names are experimental: a version without them is
# found out by compiling with them.
_CPU = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"}


def options(platform: str | None = None) -> dict[str, str]:
    """Options for `jax.jit` and `Lowered.compile` of a program with convolutions.

    Args:
      platform: that of the devices it runs on, such as "cpu"; jax's default one if None.

    Returns:
      What makes it faster there; nothing on other platforms, or where XLA does not know it.
    """
    platform = platform or jax.default_backend()
    return dict(_CPU) if platform == "cpu" and _known() else {}


@cache
def _known() -> bool:
    try:
        jax.jit(lambda x: x, compiler_options=_CPU).lower(0.0).compile()
    except Exception:  # jax has no narrower one for options it does not know.
        return False
    return True
