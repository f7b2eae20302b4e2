"""Write a small store of activations, and one of codes, in the current format.

    python tests/data/make_stores.py

Stores of earlier formats are never written again: they must go on loading.
"""

import warnings
from pathlib import Path

import numpy as np

from skchoice import TokenChoiceSAE, encode_store
from skchoice.manifest import VERSION
from skchoice.store import TOKEN, StoreWriter


def main(folder: Path) -> None:
    rng = np.random.default_rng(0)
    X = rng.exponential(size=(60, 8)) ** 3 @ rng.normal(size=(8, 4)) + 1.0
    tokens = np.zeros(60, TOKEN)
    tokens["token_id"] = np.arange(60)
    writer = StoreWriter(folder / "activations", 4, configuration={"layer": 8})
    for part in (slice(40), slice(40, 60)):
        writer.append(X[part], tokens[part], {"n": part.stop})
    writer.finish()
    sae = TokenChoiceSAE(6, 2, batch_size=20, max_iter=1, random_state=0).fit(X)
    encode_store(sae, X.astype(np.float32), folder / "codes", shard_rows=40)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(Path(__file__).parent / f"store-{VERSION}")
