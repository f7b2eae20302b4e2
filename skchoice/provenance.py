"""Which rows a model was fitted on."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skchoice.inputs import Rows

# Of larger data, blocks at even distances are hashed that have this size together.
_HASHED_BYTES = 1 << 28
_BLOCK_ROWS = 512


def describe(rows: Rows, before: dict[str, Any] | None = None) -> dict[str, Any]:
    """Describe the rows of a fit.

    Parameters
    ----------
    rows : Rows
    before : dict, optional
        Description of what the model was fitted on before; entries that a user has
        added are kept.

    Returns
    -------
    dict
        ``n_rows``, of all fits together, ``n_columns``, ``dtype`` as trained on, and
        ``sha256``: a digest of the rows in that dtype, their order included. Of data
        over 256 MiB it is one of evenly spaced blocks of 512 rows, and says nothing
        about the rows between.
    """
    n_rows, n_columns = rows.shape
    digest = hashlib.sha256(str((before or {}).get("sha256", "")).encode())
    digest.update(str((n_rows, n_columns, rows.dtype)).encode())
    for start in (_sampled_blocks(rows) * _BLOCK_ROWS).tolist():
        block = rows.read(slice(start, min(start + _BLOCK_ROWS, n_rows)))
        digest.update(block.cpu().numpy().data)
    return (before or {}) | {
        "n_rows": n_rows + int((before or {}).get("n_rows", 0)),
        "n_columns": n_columns,
        "dtype": str(rows.dtype).removeprefix("torch."),
        "sha256": digest.hexdigest(),
    }


def digest_of_rest(rows: Rows) -> str | None:
    """Return a digest that changes with any row; None where `describe` does, too."""
    whole = len(_sampled_blocks(rows)) == _n_blocks(rows)
    return None if whole else rows.content_digest()


def _n_blocks(rows: Rows) -> int:
    return -(-rows.shape[0] // _BLOCK_ROWS)


def _sampled_blocks(rows: Rows) -> NDArray[np.int64]:
    block_bytes = _BLOCK_ROWS * rows.shape[1] * rows.dtype.itemsize
    n_blocks, most = _n_blocks(rows), max(2, _HASHED_BYTES // block_bytes)
    if n_blocks <= most:
        return np.arange(n_blocks)
    return np.linspace(0, n_blocks - 1, most).astype(np.int64)
