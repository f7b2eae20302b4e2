"""Documents to read: strings, files and data sets, one document at a time."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sized
from pathlib import Path
from typing import Any

# A text file is read in documents of about this many characters.
_FILE_CHARACTERS = 1 << 18
_LONGEST_LINE = 1 << 16
_JSON_LINES = (".jsonl", ".ndjson")


class Texts:
    """The documents of a source, in order, never more than one in memory.

    Parameters
    ----------
    source : Path, or iterable
        A Path is a file: ``.jsonl`` and ``.ndjson`` hold one document per line, any
        other is read as UTF-8 text, and a long one as several documents of about
        262,144 characters, each ending at a line end. An iterable holds strings,
        mappings with a field of text (the rows of a Hugging Face data set), or Paths.
    field : str, default="text"
        Where a line of JSON or a mapping has its text.

    Raises
    ------
    TypeError
        If the source is one string, or something in it is no document.
    FileNotFoundError
        If the file, or one of a list of files, is not there.

    Examples
    --------
    >>> from skchoice.lm import Texts
    >>> list(Texts(["The cat.", {"text": "A dog."}]))
    ['The cat.', 'A dog.']
    """

    def __init__(self, source: Path | Iterable[Any], field: str = "text"):
        if isinstance(source, (str, bytes, Mapping)) or not isinstance(
            source, (Path, Iterable)
        ):
            kind = type(source).__name__
            raise TypeError(
                f"texts must be a list or another iterable of strings, got a {kind}: "
                "for one text give [text], for a file pathlib.Path(name)."
            )
        self._source = [source] if isinstance(source, Path) else source
        for path in self._files():  # before a model is run on those before it
            if not path.is_file():
                raise FileNotFoundError(
                    f"no text file at {str(path)!r}: give files, in UTF-8."
                )
        self._field = field
        self._begin()

    @classmethod
    def from_hub(cls, name: str, split: str = "train", field: str = "text") -> Texts:
        """Return the documents of a Hugging Face data set, streamed.

        Parameters
        ----------
        name : str
            Of a data set on the hub, or of a folder with one.
        split : str, default="train"
            Part of the data set.
        field : str, default="text"
            Column with the text.
        """
        try:
            from datasets import load_dataset
        except ImportError as error:
            raise ImportError(
                "data sets are read by the package datasets: pip install datasets"
            ) from error
        return cls(load_dataset(name, split=split, streaming=True), field)

    def _files(self) -> list[Path]:
        items = self._source if isinstance(self._source, (list, tuple)) else []
        return [item for item in items if isinstance(item, Path)]

    def _begin(self) -> None:
        self._n_items = 0
        self._n_bytes = 0
        self._file_bytes: int | None = None

    @property
    def share(self) -> float | None:
        """Share of the source that was read, in [0, 1]; None where nothing tells it."""
        if self._file_bytes:
            return min(self._n_bytes / self._file_bytes, 1.0)
        if isinstance(self._source, Sized) and len(self._source):
            return self._n_items / len(self._source)
        return None

    def __iter__(self) -> Iterator[str]:
        self._begin()
        files = self._files()
        if (
            files
            and isinstance(self._source, Sized)
            and len(files) == len(self._source)
        ):
            self._file_bytes = sum(path.stat().st_size for path in files)
        for index, item in enumerate(self._source):
            if isinstance(item, Path):
                yield from self._file(item)
            elif isinstance(item, str):
                yield item
            elif isinstance(item, Mapping):
                yield self._text_of(item, f"item {index} of texts")
            else:
                raise TypeError(
                    f"texts must hold strings, got {item!r} at index {index}."
                )
            self._n_items += 1

    def _file(self, path: Path) -> Iterator[str]:
        try:
            with open(path, encoding="utf-8-sig") as file:
                lines = path.suffix in _JSON_LINES
                for text in self._json_lines(file, path) if lines else _pieces(file):
                    yield text
                    if not lines:
                        self._n_bytes += len(text.encode())
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not text in UTF-8: {error}.") from error

    def _json_lines(self, file: Iterable[str], path: Path) -> Iterator[str]:
        for number, line in enumerate(file, 1):
            where = f"line {number} of {path}"
            if line.strip():
                try:
                    item = json.loads(line)
                except json.JSONDecodeError as error:
                    raise ValueError(f"{where} is not JSON: {error}.") from error
                if not isinstance(item, dict):
                    raise ValueError(f"{where} is no JSON object: {line[:80]!r}.")
                yield self._text_of(item, where)
            self._n_bytes += len(line.encode())

    def _text_of(self, item: Mapping[str, Any], where: str) -> str:
        text = item.get(self._field)
        if not isinstance(text, str):
            raise ValueError(
                f"{where} has no text in the field {self._field!r}; its fields are "
                f"{sorted(item)}."
            )
        return text


def _pieces(file: Any) -> Iterator[str]:
    while text := file.read(_FILE_CHARACTERS):
        yield text + file.readline(_LONGEST_LINE)
