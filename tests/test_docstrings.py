"""Every public object has a numpydoc docstring that is whole, with an example."""

import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest

import skchoice
from skchoice.exceptions import SAEWarning

numpydoc = pytest.importorskip("numpydoc.validate")

# As scikit-learn's own test has it: where the summary begins is ruff's matter (GL01,
# GL02), returned values may have a name (RT02), not all that is short needs a longer
# text or a see-also (ES01, SA01).
IGNORED = {"GL01", "GL02", "RT02", "ES01", "SA01"}
# Of a method the class has the example; a property has no parameters.
NOT_OF_METHODS = {"EX01"}


def public_modules():
    """Return the names of modules that say what they offer, none of it deeper."""
    found = ["skchoice"]
    for module in pkgutil.iter_modules(skchoice.__path__, "skchoice."):
        try:
            loaded = importlib.import_module(module.name)
        except ImportError:  # its extra is not installed
            continue
        if hasattr(loaded, "__all__"):
            found.append(module.name)
    return found


def public_objects():
    """Yield names and objects; what two modules offer, under the shorter name."""
    seen = []
    for module in public_modules():
        loaded = importlib.import_module(module)
        for name in loaded.__all__:
            thing = getattr(loaded, name)
            known = any(thing is other for other in seen)
            if not known and (inspect.isclass(thing) or inspect.isroutine(thing)):
                seen.append(thing)
                yield f"{module}.{name}", thing


def own_methods(cls):
    """Return the public methods and properties that this library wrote."""
    for name, member in inspect.getmembers_static(cls):
        inner = getattr(member, "__func__", getattr(member, "fget", member))
        ours = (getattr(inner, "__module__", None) or "").startswith("skchoice")
        if ours and not name.startswith("_") and inspect.isroutine(inner):
            yield name


OBJECTS = dict(public_objects())
METHODS = [
    (f"{path}.{name}", f"{cls.__module__}.{cls.__qualname__}.{name}")
    for path, cls in OBJECTS.items()
    if inspect.isclass(cls)
    for name in own_methods(cls)
]


def errors(defined_at, ignored):
    found = numpydoc.validate(defined_at)["errors"]
    return [f"{code}: {text}" for code, text in found if code not in ignored]


@pytest.mark.parametrize("path", OBJECTS)
def test_objects(path):
    thing = OBJECTS[path]
    ignored = IGNORED
    if inspect.isclass(thing) and issubclass(thing, SAEWarning):
        # The base has the example of all.
        ignored = ignored if thing is SAEWarning else IGNORED | {"EX01"}
    assert errors(f"{thing.__module__}.{thing.__qualname__}", ignored) == []


@pytest.mark.parametrize("path, defined_at", METHODS, ids=[m[0] for m in METHODS])
def test_methods(path, defined_at):
    assert errors(defined_at, IGNORED | NOT_OF_METHODS) == []


def test_the_reference_lists_them_all():
    root = Path(__file__).parents[1]
    listed = (root / "docs" / "api.rst").read_text().split()
    assert [path for path in OBJECTS if path not in listed] == []


def test_this_test_finds_them():
    assert {"skchoice.FeatureChoiceSAE", "skchoice.report"} <= set(OBJECTS)
    assert {"skchoice.plots.FrontierDisplay", "skchoice.metrics.fvu"} <= set(OBJECTS)
    assert {"skchoice.exceptions.StoreError", "skchoice.cli.main"} <= set(OBJECTS)
    names = {path for path, _ in METHODS}
    assert "skchoice.FeatureChoiceSAE.partial_fit" in names
    assert "skchoice.plots.L0Display.from_codes" in names
    assert "skchoice.module.SAEModule.encode" in names
