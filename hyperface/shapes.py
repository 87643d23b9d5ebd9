"""Types of the arrays that losses take and return, with their shapes.

Features and agents may have any floating dtype, and integers are promoted. A checker of shapes at
run time (beartype with jaxtyping) reads these as well.
"""

from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Int

Features = Float[ArrayLike, "batch dim"]
"""Un-normalised outputs of the backbone, one row per example."""
Agents = Float[ArrayLike, "classes dim"]
"""Class weights, one row per class."""
Centers = Float[ArrayLike, "classes dim"]
"""Class centers, one row per class."""
Labels = Int[ArrayLike, " batch"]
"""The class of each example."""
Flags = Bool[ArrayLike, " batch"]
"""One truth value per example."""
Bias = Float[ArrayLike, " classes"]
"""What is added to each class's logit."""
Losses = Float[Array, " batch"]
"""One loss per example."""
Scalar = Float[Array, ""]
"""One number."""
