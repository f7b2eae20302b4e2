"""From a fitted autoencoder and rows to a page."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike
from tqdm.auto import tqdm

from skchoice.arguments import check_integer
from skchoice.fitted import check_autoencoder
from skchoice.inputs import Rows
from skchoice.pages.details import Details
from skchoice.pages.features import feature_matches
from skchoice.pages.given import Given, checked
from skchoice.pages.neighbours import (
    boosted_and_suppressed,
    nearest_by_cofiring,
    nearest_by_cosine,
)
from skchoice.pages.overview import Overview, Totals
from skchoice.pages.page import Page, summary
from skchoice.pages.pictures import RowPictures
from skchoice.pages.spool import Spool
from skchoice.pages.text import Windows, classes_of

_N_NEIGHBOURS = 8
_N_OUTPUT_TOKENS = 10


def report(
    sae: Any,
    X: Any,
    *,
    path: str | os.PathLike = "report.html",
    tokens: Sequence | None = None,
    document: ArrayLike | None = None,
    position: ArrayLike | None = None,
    classes: ArrayLike | None = None,
    unembedding: ArrayLike | None = None,
    vocabulary: Sequence | None = None,
    image_shape: tuple[int, int] | None = None,
    n_contexts: int = 10,
    context_width: int = 10,
    title: str | None = None,
    verbose: int = 0,
) -> Path:
    """Write a page on which to look at the features of a fitted autoencoder.

    One HTML file, which needs no server and no network and can be shared as it is: an
    overview, a table of all features to search and sort, and a page for each feature
    with its activations, the contexts it fires in and the features most like it. X is
    read once; memory does not grow with its rows, but for their tokens. The codes,
    eight bytes a match, lie in a temporary file beside it meanwhile.

    Parameters
    ----------
    sae : estimator
        A fitted autoencoder of this library.
    X : array-like of shape (n_rows, n_columns)
        Rows to look at, as for ``transform``; may be a stream larger than memory. Where
        it has attributes ``tokens``, ``token_ids``, ``document`` or ``position``, those
        are used for what is not given.
    path : path-like, default="report.html"
        The file to write. What was there is replaced once the new page is whole.
    tokens : sequence of str of length n_rows, default=None
        Text of each row as it reads, ``tokenizer.decode([id])`` and not the tokenizer's
        spelling with ``Ġ`` for a space. They are shown in the order of the rows and
        escaped, and what would be invisible is made visible; bytes are read as UTF-8.
        None shows numbers of rows.
    document, position : array-like of int of shape (n_rows,), default=None
        Where each row is from: a context ends where the document changes or the
        position does not go on by one. None takes all rows as one text.
    classes : array-like of shape (n_rows,), default=None
        Class of each row, for which explained variance is given; of more than 16
        classes the rarest are put together. None takes the kind of token.
    unembedding : array-like of shape (n_columns, n_vocabulary), default=None
        From the space of X to logits: shows which output tokens a feature boosts and
        suppresses.
    vocabulary : sequence of str of length n_vocabulary, default=None
        Text of each output token; also of ``tokens`` that are ids, and of the
        ``token_ids`` of X.
    image_shape : (int, int), default=None
        Height and width, for rows that are images: decoder directions and rows are
        drawn.
    n_contexts : int, default=10
        Top contexts of each feature.
    context_width : int, default=10
        Rows shown on either side of the one that fires.
    title : str, default=None
        Of the page. None names the estimator.
    verbose : int, default=0
        1 shows progress bars.

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    NotFittedError
        If the autoencoder is not fitted.
    TypeError
        If it is no autoencoder of this library.
    ValueError
        If lengths, shapes or types do not fit X. Nothing is written then.

    See Also
    --------
    skchoice.plots.DensityDisplay : The curve of densities in matplotlib.

    Notes
    -----
    A feature is *dead* here where it fires on none of the rows of X, and *underused*
    where its density is below a tenth of the Zipf fit at its rank. Explained variance
    is ``1 - FVU``, pooled over rows and columns, around the mean of all rows. Two
    features *co-fire* to the degree of the Jaccard index of their tokens.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from sklearn.datasets import load_digits
    >>> import skchoice
    >>> X, y = load_digits(return_X_y=True)
    >>> sae = skchoice.MutualChoiceSAE(n_features=64, k=8, random_state=0).fit(X)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     page = skchoice.report(
    ...         sae, X, classes=y, image_shape=(8, 8), path=Path(folder) / "digits.html"
    ...     )
    ...     page.read_text(encoding="utf-8")[:15]
    '<!doctype html>'
    """
    check_autoencoder(sae)
    check_integer("n_contexts", n_contexts, 1)
    check_integer("context_width", context_width, 0)
    if not isinstance(title, str | None):
        raise ValueError(f"title must be a string or None, got {title!r}.")
    path = Path(path)
    if not path.parent.is_dir():
        raise ValueError(f"There is no folder {path.parent} to write {path.name} to.")
    if path.is_dir():
        raise ValueError(f"{path} is a folder: give the name of the file to write.")
    rows, _ = sae._open(X, reset=False)
    given = checked(
        X,
        rows.shape,
        tokens,
        document,
        position,
        classes,
        unembedding,
        vocabulary,
        image_shape,
    )
    pictures = None
    if given.image_shape is not None:
        pictures = RowPictures(rows, given.image_shape)
    name, n_features = type(sae).__name__, len(sae.components_)
    with Spool(n_features, path.parent) as spool:
        overview = _read(sae, rows, given, spool, pictures, verbose)
        page = Page(
            title or f"{name} with {n_features:,} features",
            summary(name, overview, spool.counts),
            sae.components_,
            given.image_shape,
        )
        details = _details(sae, given, spool, pictures)
        # Without tokens there are no neighbours to show.
        width = 0 if given.tokens is None else context_width
        windows = Windows(rows.shape[0], width, given.document, given.position)
        with _progress(n_features, "features", verbose) as progress:
            for first, stop in spool.blocks():
                block = spool.read(first, stop)
                for matches in feature_matches(block, windows, n_contexts):
                    page.add(*details.of(matches))
                    progress.update()
        page.write(path)
    return path


def _read(
    sae: Any,
    rows: Rows,
    given: Given,
    spool: Spool,
    pictures: RowPictures | None,
    verbose: int,
) -> Overview:
    """Read all rows: spool their codes, and sum up what they show together."""
    labels = given.classes
    if labels is None and given.tokens is not None:
        labels = classes_of(given.tokens)
    totals = Totals(sae.decoder_bias_, labels)
    with _progress(rows.shape[0], "rows", verbose) as progress:
        for chunk, codes, x_hat in sae._reconstructed(rows):
            spool.append(codes)
            totals.add(chunk.cpu().numpy(), codes, x_hat.cpu().numpy())
            if pictures is not None:
                pictures.note(chunk)
            progress.update(len(chunk))
    spool.flush()
    return totals.overview()


def _details(
    sae: Any, given: Given, spool: Spool, pictures: RowPictures | None
) -> Details:
    """Find the neighbours and output tokens of all features."""
    output_tokens = None
    if given.unembedding is not None:
        output_tokens = boosted_and_suppressed(
            sae.components_, given.unembedding, _N_OUTPUT_TOKENS
        )
    return Details(
        given,
        nearest_by_cosine(sae.components_, _N_NEIGHBOURS),
        nearest_by_cofiring(spool, _N_NEIGHBOURS),
        output_tokens,
        pictures,
    )


def _progress(total: int, unit: str, verbose: int) -> tqdm:
    return tqdm(total=total, desc="Report", unit=f" {unit}", disable=not verbose)
