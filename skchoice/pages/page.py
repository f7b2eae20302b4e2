"""One HTML file from what was measured: the template, and data packed beside it."""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
import os
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skchoice import metrics
from skchoice.pages.details import TableRow
from skchoice.pages.overview import Overview, underused
from skchoice.pages.pictures import direction_picture

_PER_PACK = 64  # features that are unpacked together
_MAX_POINTS = 400  # of the curve of densities


class Page:
    """A page under way: features are added in order, then it is written.

    Parameters
    ----------
    title : str
    overview : dict
        See `summary`.
    components : float array of shape (n_features, n_columns)
    image_shape : (int, int) or None
        Draws each row of ``components`` as an image.
    """

    def __init__(
        self,
        title: str,
        overview: dict,
        components: NDArray,
        image_shape: tuple[int, int] | None,
    ):
        self._title = title
        self._overview = overview
        self._data: dict[str, Any] = {"overview": overview, "image": image_shape}
        if image_shape is not None:
            self._data["directions"] = [direction_picture(row) for row in components]
        self._rows: list[TableRow] = []
        self._open: list[dict] = []
        self._packs: list[str] = []

    def add(self, row: TableRow, details: dict) -> None:
        """Add the next feature."""
        self._rows.append(row)
        self._open.append(details)
        if len(self._open) == _PER_PACK:
            self._close_pack()

    def write(self, path: Path) -> None:
        """Write the file whole, or leave what was there."""
        if self._open:
            self._close_pack()
        columns = [asdict(row) for row in self._rows]
        self._data["table"] = {
            name: [row[name] for row in columns] for name in columns[0]
        }
        self._data["per_pack"] = _PER_PACK
        style, script = _template("page.css"), _template("page.js")
        head, foot = (
            Template(part).substitute(
                title=html.escape(_encodable(self._title)),
                estimator=html.escape(self._overview["estimator"]),
                n_rows=f"{self._overview['n_rows']:,}",
                style=style,
                script=script,
                style_hash=_source_hash(style),
                script_hash=_source_hash(script),
                data=_packed(self._data),
            )
            for part in _template("page.html").split("<!-- packs -->")
        )
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            with open(partial, "w", encoding="utf-8", newline="\n") as file:
                file.write(head)
                for number, pack in enumerate(self._packs):
                    file.write(f'<script type="text/plain" id="pack-{number}">')
                    file.write(pack + "</script>\n")
                file.write(foot)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)

    def _close_pack(self) -> None:
        self._packs.append(_packed(self._open))
        self._open = []


def summary(estimator: str, overview: Overview, counts: NDArray) -> dict:
    """Return the part of the page that is about all features.

    Parameters
    ----------
    estimator : str
    overview : Overview
    counts : int array of shape (n_features,)
        Matches of each feature.
    """
    sparse = underused(counts / overview.n_rows, overview.n_rows)
    density = np.sort(counts)[::-1] / overview.n_rows
    n_firing = int(np.count_nonzero(density))
    places = np.unique(np.geomspace(1, max(n_firing, 1), _MAX_POINTS).astype(int))
    places = places[places <= n_firing]
    fit = metrics.zipf_fit(density) if n_firing else None
    return {
        "estimator": estimator,
        "n_rows": overview.n_rows,
        "n_features": len(counts),
        "explained_variance": overview.explained_variance,
        "l0": overview.l0,
        "l0_counts": overview.l0_counts.tolist(),
        "classes": [asdict(one) for one in overview.classes],
        "n_dead": int(np.count_nonzero(counts == 0)),
        "underused": np.flatnonzero(sparse).tolist(),
        "ranks": places.tolist(),
        "densities": density[places - 1].tolist(),
        "zipf": None if fit is None else asdict(fit),
    }


def _template(name: str) -> str:
    return files("skchoice.pages").joinpath(name).read_text(encoding="utf-8")


def _packed(data: Any) -> str:
    """Return JSON, compressed, in base64: no character of it means anything in HTML."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode("ascii"), 6, mtime=0)).decode()


def _source_hash(source: str) -> str:
    """Return what the content security policy knows a style or script by."""
    digest = hashlib.sha256(source.encode("utf-8")).digest()
    return "sha256-" + base64.b64encode(digest).decode()


def _encodable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
