"""The page of a feature as plain data, in the short keys that the script reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from skchoice.pages.features import Context, FeatureMatches
from skchoice.pages.given import Given
from skchoice.pages.neighbours import Ranked
from skchoice.pages.pictures import RowPictures
from skchoice.pages.text import legible

_LABEL_TOKENS = 4  # that stand for a feature in lists


@dataclass(frozen=True)
class TableRow:
    """What the table of features shows of one."""

    count: int
    mean: float
    largest: float
    twin: float  # the largest cosine with another feature
    label: str  # tokens that it fires on most strongly
    boosted: str
    histogram: str


class Details:
    """Pages of features, one after the other.

    Parameters
    ----------
    given : Given
    by_cosine, by_cofiring : Ranked
        Neighbours of each feature.
    output_tokens : (Ranked, Ranked) or None
        Output tokens boosted and suppressed.
    pictures : RowPictures or None
    """

    def __init__(
        self,
        given: Given,
        by_cosine: Ranked,
        by_cofiring: Ranked,
        output_tokens: tuple[Ranked, Ranked] | None,
        pictures: RowPictures | None,
    ):
        self._given = given
        self._by_cosine, self._by_cofiring = by_cosine, by_cofiring
        self._output_tokens = output_tokens
        self._pictures = pictures
        self._legible: dict[Any, str] = {}
        self._next = 0

    def of(self, matches: FeatureMatches) -> tuple[TableRow, dict]:
        """Return the table row and the page of the next feature."""
        feature = self._next
        self._next += 1
        page: dict[str, Any] = {
            "histogram": matches.histogram.tolist(),
            "top": [self._context(context) for context in matches.top],
            "bands": [
                [self._context(context) for context in band] for band in matches.bands
            ],
            "cosine": self._neighbours(self._by_cosine, feature),
            "cofiring": [
                pair
                for pair in self._neighbours(self._by_cofiring, feature)
                if pair[1] > 0
            ],
        }
        boosted = ""
        if self._output_tokens is not None:
            page["boosted"], page["suppressed"] = (
                self._output(ranked, feature) for ranked in self._output_tokens
            )
            boosted = _joined(token for token, _ in page["boosted"])
        row = TableRow(
            matches.count,
            _short(matches.mean),
            _short(matches.largest),
            page["cosine"][0][1] if page["cosine"] else 0.0,
            self._label(matches.top),
            boosted,
            _heights(matches.histogram),
        )
        return row, page

    def _context(self, context: Context) -> dict:
        given = self._given
        shown = {
            "row": context.row,
            "at": context.row - context.first,
            "values": [_short(value) for value in context.values.tolist()],
        }
        if given.document is not None:
            shown["document"] = given.document[context.row].item()
        if given.position is not None:
            shown["position"] = given.position[context.row].item()
        if self._pictures is not None:
            shown["picture"] = self._pictures.of(context.row)
        if given.classes is not None:
            shown["class"] = legible(given.classes[context.row])
        if given.tokens is not None:
            rows = range(context.first, context.first + len(context.values))
            shown["tokens"] = [self._text(given.tokens[row]) for row in rows]
        return shown

    def _label(self, top: list[Context]) -> str:
        if self._given.tokens is not None:
            return _joined(self._text(self._given.tokens[c.row]) for c in top)
        if self._given.classes is not None:
            return _joined(legible(self._given.classes[c.row]) for c in top)
        return ""

    def _output(self, ranked: Ranked, feature: int) -> list[tuple[str, float]]:
        vocabulary: Any = self._given.vocabulary  # given wherever there is a ranking
        return [
            (self._text(vocabulary[index]), _short(value))
            for index, value in _pairs(ranked, feature)
        ]

    def _neighbours(self, ranked: Ranked, feature: int) -> list[tuple[int, float]]:
        return [(index, round(value, 4)) for index, value in _pairs(ranked, feature)]

    def _text(self, token: Any) -> str:
        if token not in self._legible:
            self._legible[token] = legible(token)
        return self._legible[token]


def _pairs(ranked: Ranked, feature: int) -> list[tuple[int, float]]:
    which, score = ranked.which[feature].tolist(), ranked.score[feature].tolist()
    return list(zip(which, score, strict=True))


def _joined(texts: Any) -> str:
    distinct = dict.fromkeys(text.strip() or text for text in texts)
    return " · ".join(list(distinct)[:_LABEL_TOKENS])


def _short(value: float) -> float:
    return float(f"{value:.3g}")


def _heights(histogram: Any) -> str:
    """Return a digit for the height of each bar, a count above zero never 0."""
    most = max(int(histogram.max()), 1)
    return "".join(str(-(-9 * count // most)) for count in histogram.tolist())
