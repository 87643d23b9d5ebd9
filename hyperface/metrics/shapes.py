"""Types of the NumPy arrays that the metrics take and return, with their shapes.

Within one call all sizes of the same name are equal. Scores and features may have any floating
dtype.
"""

import numpy as np
from jaxtyping import Bool, Float, Integer, Shaped

Features = Float[np.ndarray, "images dim"]
"""One row per image. Rows may have any length, unless a function asks for unit length."""
Labels = Shaped[np.ndarray, " images"]
"""The person of each image."""
Scores = Float[np.ndarray, " pairs"]
"""Similarities, higher for more alike."""
Same = Bool[np.ndarray, " pairs"]
"""Whether both images of a pair show one person."""
Tested = Bool[np.ndarray, " pairs"]
"""Whether a pair is held out, so that thresholds are chosen on the other pairs."""
Folds = Shaped[np.ndarray, " pairs"]
"""The fold or split of each pair."""
PairRows = Integer[np.ndarray, " pairs"]
"""The row of one image of each pair."""
Points = Float[np.ndarray, " points"]
"""One value per point of a curve."""
Genuine = Float[np.ndarray, " same_pairs"]
"""Scores of pairs of one person."""
Impostors = Float[np.ndarray, " different_pairs"]
"""Scores of pairs of two people."""
PerFold = Float[np.ndarray, " folds"]
"""One value per fold or split."""
OfRates = Float[np.ndarray, "*rates"]
"""One value per requested false accept rate; a number if a single rate was given."""
AtRanks = Float[np.ndarray, " ranks"]
"""One value per rank, from 1."""
ProbeFeatures = Float[np.ndarray, "probes dim"]
"""Features of the images that are searched for."""
ProbeScores = Float[np.ndarray, "probes gallery"]
"""One row per probe, one column per image of the gallery."""
Searches = Integer[np.ndarray, " searches"]
"""One rank or row per search."""
SplitRates = Float[np.ndarray, "splits fars"]
"""One row per split, one column per false accept rate."""
SplitCounts = Integer[np.ndarray, "splits fars"]
"""Whole numbers: one row per split, one column per false accept rate."""
MateScores = Float[np.ndarray, " mated_probes"]
"""One score per probe that has a mate, an image of the same person, in the gallery."""
MatedRanks = Integer[np.ndarray, " mated_probes"]
"""One rank per probe that has a mate in the gallery."""
ImpostorScores = Float[np.ndarray, " other_probes"]
"""One score per probe without a mate."""
PerFar = Float[np.ndarray, " fars"]
"""One value per false accept rate."""
FarFlags = Bool[np.ndarray, " fars"]
"""One truth value per false accept rate."""
Cuts = Float[np.ndarray, " cuts"]
"""Thresholds between scores."""
Histograms = Float[np.ndarray, "rows bins"]
"""One histogram per row."""
OtherHistograms = Float[np.ndarray, "columns bins"]
"""The second array of a comparison, one histogram per row."""
Intersections = Float[np.ndarray, "rows columns"]
"""Histogram intersection of each row of one array with each row of another."""
Kernel = Float[np.ndarray, "pairs pairs"]
"""Kernel value of each pair of images with each pair of images."""
Decisions = Float[np.ndarray, " tested_pairs"]
"""One value per held-out pair."""
Uses = Integer[np.ndarray, " uses"]
"""Row numbers of images; an image that occurs twice counts twice."""
UseFolds = Shaped[np.ndarray, " uses"]
"""The fold of each entry of `Uses`."""
Spanned = Float[np.ndarray, "images span"]
"""Features in an orthonormal basis of the space that they span."""
Projected = Float[np.ndarray, "images kept"]
"""Features after a projection, which keeps some of the dimensions."""
Norms = Float[np.ndarray, "images 1"]
"""The length of each row."""
Others = Float[np.ndarray, "others dim"]
"""Features of further images."""
