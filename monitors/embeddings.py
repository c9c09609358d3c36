"""Sketches of embeddings, and how far two of them are apart.

A row becomes the cosines and sines of a fixed set of random projections, whose inner products are those of a Gaussian
kernel on average (random Fourier features: Rahimi and Recht 2007). Their means are all that the maximum mean
discrepancy of two samples takes (MMD: Gretton et al. 2012), and their second moments say how far chance moves it.

All sums are of integers: projections of coordinates rounded to a fraction of the bandwidth are exact, and so are
products of features rounded to 2**-16. So merging is addition, and neither order nor batches show.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from monitors.buckets import Floats, Ints

__all__ = ["DIMENSIONS_MAX", "EmbeddingError", "EmbeddingSketch", "Kernel", "mmd", "mmd_bound", "mmd_under_null"]

FREQUENCIES: Final = 128
DIMENSIONS_MAX: Final = 4096
SAMPLE_ROWS: Final = 500
_COORDINATE: Final = 2.0**14
_FAR: Final = 2.0**20
_WEIGHT: Final = 2.0**12
_FEATURE: Final = 2.0**16
_CHUNK: Final = 1 << 14
_ERRORS: Final = 4.0


class EmbeddingError(ValueError):
    """Embeddings that cannot be sketched or compared. The message says what was expected and what came."""


@dataclass(frozen=True)
class Kernel:
    """A Gaussian kernel, exp(-|x - y|^2 / 2 bandwidth^2), as random projections.

    Attributes
    ----------
    dimensions : int
        Up to 4,096.
    bandwidth : float
        Coordinates more than 64 times as far out count as that far; they are rounded to 2**-14 of it.
    seed : int
        Of the projections.
    """

    dimensions: int
    bandwidth: float
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.dimensions <= DIMENSIONS_MAX:
            raise EmbeddingError(f"expected embeddings of 1 to {DIMENSIONS_MAX} dimensions, got {self.dimensions}")
        if not (np.isfinite(self.bandwidth) and self.bandwidth > 0):
            raise EmbeddingError(f"expected a bandwidth above zero, got {self.bandwidth}")

    @staticmethod
    def of(rows: Floats, seed: int = 0) -> "Kernel":
        """The median heuristic: as wide as rows of a reference are apart, of which `rows` are a sample, shape (n, d).

        Rows that are all alike are given the width of their own length, or 1.
        """
        rows = rows[np.isfinite(rows).all(axis=1)][:SAMPLE_ROWS]
        if len(rows) < 2:
            raise EmbeddingError(f"expected at least 2 rows to find a bandwidth, got {len(rows)}")
        lengths = (rows * rows).sum(axis=1)
        apart = lengths[:, None] + lengths - 2 * rows @ rows.T
        width = float(np.sqrt(max(np.median(apart[np.triu_indices(len(rows), 1)]), 0.0)))
        return Kernel(rows.shape[1], width or float(np.sqrt(lengths.mean())) or 1.0, seed)

    @cached_property
    def _weights(self) -> Floats:
        """Projections, whole numbers in units of 2**-12, shape (dimensions, FREQUENCIES)."""
        return np.rint(np.random.default_rng(self.seed).normal(size=(self.dimensions, FREQUENCIES)) * _WEIGHT)

    def features(self, rows: Floats) -> npt.NDArray[np.float64]:
        """Whole numbers: cosines and sines of each row in units of 2**-16, shape (n, 2 * FREQUENCIES)."""
        at = np.rint(np.clip(rows / self.bandwidth * _COORDINATE, -_FAR, _FAR))
        angle = (at @ self._weights) / (
            _COORDINATE * _WEIGHT
        )  # products stay below 2**53, so that no order of adding shows
        return np.rint(np.concatenate([np.cos(angle), np.sin(angle)], axis=1) * _FEATURE)


@dataclass(frozen=True)
class EmbeddingSketch:
    """What is kept of rows of embeddings; merging is addition.

    Attributes
    ----------
    kernel : Kernel
    rows, nulls : int
        Rows that are in the sums, and those that are not: null, or with a coordinate that is no number.
    sums : ndarray of int64, shape (2 * FREQUENCIES,)
        Of features, in units of 2**-16.
    products : ndarray of int64, shape (2 * FREQUENCIES, 2 * FREQUENCIES)
        Of two features each, in units of 2**-32.
    """

    kernel: Kernel
    rows: int
    nulls: int
    sums: Ints
    products: Ints

    @staticmethod
    def empty(kernel: Kernel) -> "EmbeddingSketch":
        """Of no rows."""
        size = 2 * FREQUENCIES
        return EmbeddingSketch(kernel, 0, 0, np.zeros(size, np.int64), np.zeros((size, size), np.int64))

    def add(self, rows: Floats, nulls: int = 0) -> "EmbeddingSketch":
        """With more rows, shape (n, dimensions), and so many null ones.

        Raises
        ------
        EmbeddingError
            Where they have other dimensions.
        """
        if rows.ndim != 2 or rows.shape[1] != self.kernel.dimensions:
            raise EmbeddingError(f"expected rows of {self.kernel.dimensions} dimensions, got shape {rows.shape}")
        usable = np.isfinite(rows).all(axis=1)
        sums, products = self.sums.copy(), self.products.copy()
        for start in range(0, len(rows), _CHUNK):
            part = slice(start, start + _CHUNK)
            features = self.kernel.features(rows[part][usable[part]])
            sums += features.sum(axis=0).astype(np.int64)
            products += (features.T @ features).astype(np.int64)
        count = int(usable.sum())
        return replace(
            self, rows=self.rows + count, nulls=self.nulls + len(rows) - count + nulls, sums=sums, products=products
        )

    def merge(self, other: "EmbeddingSketch") -> "EmbeddingSketch":
        """Of the rows of both.

        Raises
        ------
        EmbeddingError
            Where they were made by different kernels.
        """
        if self.kernel != other.kernel:
            raise EmbeddingError(f"expected sketches by one kernel, got {self.kernel} and {other.kernel}")
        return EmbeddingSketch(
            self.kernel,
            self.rows + other.rows,
            self.nulls + other.nulls,
            self.sums + other.sums,
            self.products + other.products,
        )

    @property
    def means(self) -> Floats:
        """Of the features, shape (2 * FREQUENCIES,); NaN of no rows."""
        found: Floats = self.sums / _FEATURE / (self.rows or np.nan)
        return found


def mmd(reference: EmbeddingSketch, current: EmbeddingSketch) -> float:
    """Squared MMD, unbiased: around 0 where nothing differs, at most 2; NaN of fewer than 2 rows a side."""
    return float(_by_frequency(reference, current).mean())


def mmd_bound(reference: EmbeddingSketch, current: EmbeddingSketch) -> float:
    """How far the squared MMD of the kernel itself can be: four standard errors of the mean over its projections."""
    each = _by_frequency(reference, current)
    return float(_ERRORS * each.std(ddof=1) / np.sqrt(FREQUENCIES)) + 8 / _FEATURE


def _by_frequency(reference: EmbeddingSketch, current: EmbeddingSketch) -> Floats:
    """Squared MMD by each projection alone, shape (FREQUENCIES,)."""
    if reference.kernel != current.kernel:
        raise EmbeddingError(f"expected sketches by one kernel, got {reference.kernel} and {current.kernel}")
    if min(reference.rows, current.rows) < 2:
        return np.full(FREQUENCIES, np.nan)
    x, y = (side.means.reshape(2, FREQUENCIES) for side in (reference, current))
    n, m = reference.rows, current.rows
    within = [(rows * (z * z).sum(axis=0) - 1) / (rows - 1) for rows, z in ((n, x), (m, y))]
    found: Floats = within[0] + within[1] - 2 * (x * y).sum(axis=0)
    return found


def mmd_under_null(
    reference: EmbeddingSketch, current: EmbeddingSketch, replicates: int, random: np.random.Generator
) -> Floats:
    """Squared MMDs of two samples of the same sizes of what both sides are together, shape (replicates,).

    Means of many rows are normal, with the covariance that the second moments have; drawn by its eigenvectors.
    """
    both = reference.merge(current)
    mean = both.means
    covariance = both.products / _FEATURE**2 / both.rows - np.outer(mean, mean)
    weights = np.maximum(np.linalg.eigvalsh(covariance), 0.0)
    n, m = reference.rows, current.rows
    drawn: Any = random.chisquare(1, (replicates, len(weights))) @ weights
    # Centred as the estimate is: of each side its own noise is taken off.
    found: Floats = (drawn - weights.sum()) * (1 / n + 1 / m) / FREQUENCIES
    return found
