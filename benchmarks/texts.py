"""Documents that every machine with the test requirements has: three kinds of text.

``reference`` is the topics of the Python reference that ship with CPython, ``code``
modules of its standard library, ``docstrings`` those of numpy, scipy and scikit-learn.
The order is shuffled, the same in every run, so that any stretch of it holds all kinds.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import random
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics

# Of each document only the start, so that neither one long document nor the many
# docstrings are most of the text.
MOST_CHARACTERS = {"reference": 12_000, "code": 12_000, "docstrings": 1_500}
PACKAGES = (
    "numpy",
    "numpy.linalg",
    "numpy.random",
    "scipy.stats",
    "scipy.optimize",
    "scipy.signal",
    "scipy.sparse",
    "scipy.linalg",
    "scipy.interpolate",
    "scipy.spatial",
    "scipy.ndimage",
    "sklearn",
)


def documents(seed: int = 0) -> list[tuple[str, str]]:
    """Return (kind, text) of all documents, shuffled."""
    found = [("reference", text) for _, text in sorted(topics.items())]
    found += [("code", text) for text in _modules()]
    found += [("docstrings", text) for text in _docstrings()]
    found = [(kind, text[: MOST_CHARACTERS[kind]]) for kind, text in found]
    found = [(kind, text) for kind, text in found if len(text) > 400]
    random.Random(seed).shuffle(found)
    return found


def _modules() -> Iterator[str]:
    folder = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(folder.glob("*.py")):
        yield path.read_text(encoding="utf-8")


def _docstrings() -> Iterator[str]:
    seen = set()
    for name in _public_packages():
        package = importlib.import_module(name)
        # Not every name in __all__ can be had: some of scikit-learn ask to be enabled.
        for _, thing in sorted(vars(package).items()):
            text = inspect.getdoc(thing) if callable(thing) else None
            if text and text not in seen:
                seen.add(text)
                yield text


def _public_packages() -> Iterator[str]:
    yield from PACKAGES
    sklearn = importlib.import_module("sklearn")
    for module in pkgutil.iter_modules(sklearn.__path__):
        if module.ispkg and module.name not in ("tests", "externals", "experimental"):
            yield f"sklearn.{module.name}"
