"""How a fitted autoencoder is judged on rows of documents that it has never seen.

Two figures for each: as shipped, with the thresholds of the fit and whatever L0 they
give on new documents; and at equal L0, all thresholds times the one factor that makes
the L0 of these rows ``k``. Rules are compared at equal L0. Token Choice has no
thresholds, and its L0 is ``k``.
"""

from __future__ import annotations

import copy

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from skchoice import TokenChoiceSAE, metrics

# Thresholds are lowered by this factor to see what a lower one would let through.
_LOWERED = 0.7
_ROWS = 8192
# To which rows are described, as a part of the standard deviation of their entries.
_PRECISION = 0.1


def judge(sae, train: NDArray, held_out: NDArray) -> dict:
    """Return the measures of one fit.

    Parameters
    ----------
    sae : fitted estimator
    train : array of shape (n_rows, n_columns)
        Rows it was fitted to; some of them show the gap to held-out rows, and those
        features that have not fired yet are looked for in all of them.
    held_out : array of shape (n_rows, n_columns)
    """
    some = train[:: max(1, len(train) // 10_000)]
    shipped, codes = codes_at_k(sae, held_out)
    x_hat = sae.inverse_transform(codes)
    of_train = codes_at_k(sae, some)[1]
    density = metrics.density(codes)
    found = {
        "fvu": metrics.fvu(held_out, x_hat),
        "l0": metrics.l0(codes),
        "fvu_shipped": metrics.fvu(held_out, sae.inverse_transform(shipped)),
        "l0_shipped": metrics.l0(shipped),
        "fvu_train": metrics.fvu(some, sae.inverse_transform(of_train)),
        **silent(sae, shipped, train),
        **zipf(density),
        **described(held_out, x_hat, codes),
        "density_percentiles": np.percentile(density, [1, 10, 50, 90, 99]).tolist(),
        **difficulty(held_out, x_hat, codes),
    }
    if hasattr(sae, "caps_"):
        found["smallest_cap"] = float(sae.caps_.min())
    return found


def codes_at_k(sae, X: NDArray) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    """Return the codes as shipped, and those with L0 brought to k."""
    if isinstance(sae, TokenChoiceSAE):
        codes = sae.transform(X)
        return codes, codes
    lowered = copy.copy(sae)
    lowered.thresholds_ = sae.thresholds_ * np.float32(_LOWERED)
    codes = lowered.transform(X)
    margin = margins(sae, X, codes)
    wanted = min(round(sae.k * len(X)), len(margin))
    cut = np.partition(margin, len(margin) - wanted)[len(margin) - wanted]
    return only(codes, margin > 1.0), only(codes, margin >= cut)


def margins(sae, X: NDArray, codes: sp.csr_matrix) -> NDArray:
    """Return each code's affinity as a multiple of its feature's threshold."""
    sizes = np.ones(len(X))
    if sae.importance == "relative":
        sizes = np.concatenate(
            [
                np.linalg.norm(np.float32(X[i : i + _ROWS]) - sae.decoder_bias_, axis=1)
                for i in range(0, len(X), _ROWS)
            ]
        )
    with np.errstate(divide="ignore"):
        margin = codes.data / sae.thresholds_[codes.indices]
    return margin / np.repeat(sizes, np.diff(codes.indptr))


def only(codes: sp.csr_matrix, kept: NDArray) -> sp.csr_matrix:
    """Return the codes that are kept, a mask over the nonzeros."""
    pointers = np.concatenate([[0], np.cumsum(kept)])[codes.indptr]
    parts = codes.data[kept], codes.indices[kept], pointers
    return sp.csr_matrix(parts, shape=codes.shape)


def silent(sae, codes: sp.csr_matrix, train: NDArray) -> dict:
    """Count the features without a nonzero code in N rows, and say what N was.

    N is all rows there are, those held out and those to train on: a feature may be of a
    topic that no document held out is about.
    """
    dead = metrics.dead_features(codes)
    for start in range(0, len(train), _ROWS):
        if not dead.any():
            break
        dead &= metrics.dead_features(sae.transform(train[start : start + _ROWS]))
    return {"dead": int(dead.sum()), "dead_rows": codes.shape[0] + len(train)}


def zipf(density: NDArray) -> dict:
    """Return the fit of Zipf's law to held-out densities."""
    fit = metrics.zipf_fit(density)
    return {
        "zipf_exponent": fit.exponent,
        "zipf_offset": fit.offset,
        "zipf_r2": fit.r2,
        "zipf_r2_middle": fit.r2_middle,
    }


def described(X: NDArray, x_hat: NDArray, codes: sp.csr_matrix) -> dict:
    """Return the bits per row that say which features fire, their values, the error."""
    precision = _PRECISION * np.sqrt(np.float32(X).var(axis=0).mean())
    bits = metrics.description_length(X, x_hat, codes, precision=float(precision))
    return {f"bits_{name}": value for name, value in bits._asdict().items()}


def difficulty(X: NDArray, x_hat: NDArray, codes: sp.csr_matrix) -> dict:
    """Return how the matches of a row go with how hard it is to reconstruct.

    The rank correlation of L0 with the norm of what is left over, relative to the norm
    of the centred row, and the spread of L0.
    """
    from scipy.stats import spearmanr

    X = np.float32(X)
    left = np.linalg.norm(X - x_hat, axis=1) / np.linalg.norm(X - X.mean(0), axis=1)
    per_row = metrics.l0_per_token(codes)
    constant = per_row.min() == per_row.max()
    return {
        "l0_std": float(per_row.std()),
        "l0_percentiles": np.percentile(per_row, [1, 10, 50, 90, 99]).tolist(),
        "l0_of_difficulty": 0.0 if constant else float(spearmanr(per_row, left)[0]),
    }
