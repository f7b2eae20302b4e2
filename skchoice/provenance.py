"""Which rows a model was fitted on."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

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
        ``sha256``: a digest of the rows in that dtype, their order included; of data
        over 256 MiB, of evenly spaced blocks of 512 rows.
    """
    n_rows, n_columns = rows.shape
    digest = hashlib.sha256(str((before or {}).get("sha256", "")).encode())
    digest.update(str((n_rows, n_columns, rows.dtype)).encode())
    n_blocks = -(-n_rows // _BLOCK_ROWS)
    most = max(2, _HASHED_BYTES // (_BLOCK_ROWS * n_columns * rows.dtype.itemsize))
    if n_blocks <= most:
        blocks = np.arange(n_blocks)
    else:
        blocks = np.linspace(0, n_blocks - 1, most).astype(np.int64)
    for start in (blocks * _BLOCK_ROWS).tolist():
        block = rows.read(slice(start, min(start + _BLOCK_ROWS, n_rows)))
        digest.update(block.cpu().numpy().data)
    return (before or {}) | {
        "n_rows": n_rows + int((before or {}).get("n_rows", 0)),
        "n_columns": n_columns,
        "dtype": str(rows.dtype).removeprefix("torch."),
        "sha256": digest.hexdigest(),
    }
