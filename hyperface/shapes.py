"""Types of the arrays that losses take and return, with their shapes.

Features and agents may have any floating dtype, and integers are promoted. The types can also be
checked at run time, by beartype with jaxtyping.
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
"""Class id of each example."""
Flags = Bool[ArrayLike, " batch"]
"""One truth value per example."""
Bias = Float[ArrayLike, " classes"]
"""One number per class, which is added to the class's logit."""
Losses = Float[Array, " batch"]
"""One loss per example."""
Cosines = Float[Array, "batch classes"]
"""Cosine between each example's feature and each class's agent."""
PerClass = Float[Array, " classes"]
"""One number per class."""
Vectors = Float[ArrayLike, "*shape"]
"""Vectors along one of the axes."""
SameShape = Float[Array, "*shape"]
"""An array of the same shape as the given `Vectors`."""
Numbers = Float[ArrayLike, "*numbers"]
"""One number or an array of them."""
NumberEach = Float[Array, "*numbers"]
"""One number for each of the given `Numbers`."""
