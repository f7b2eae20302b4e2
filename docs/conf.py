"""Sphinx configuration: ``make docs`` builds with warnings as errors."""

import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import render_peers
import render_results
import render_study

import skchoice

HERE = Path(__file__).parent

project = "skchoice"
author = "the skchoice developers"
copyright = author
version = release = skchoice.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.viewcode",
    "mathml",
    "numpydoc",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "_generated", "auto_examples/*.ipynb"]
templates_path = ["_templates"]

autosummary_generate = True
autodoc_typehints = "none"  # the docstrings say more
numpydoc_show_class_members = False
numpydoc_validation_checks = set()  # tests/test_docstrings.py has them

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "filename_pattern": r"/plot_",
    "ignore_pattern": r"(quickstart|gpt2_layer8|reproduce_paper)\.py",
    "within_subsection_order": "FileNameSortKey",
    "download_all_examples": False,
    "remove_config_comments": True,
    "show_memory": False,
    "abort_on_example_error": True,
    "min_reported_time": 1,
}

html_math_renderer = "mathml"
html_theme = "furo"
html_title = "skchoice"
html_static_path = []
html_show_sphinx = False

# Progress of fits is of no interest here; a warning in an example would be.
warnings.filterwarnings("ignore", module="tqdm")

render_results.write(HERE.parent / "benchmarks" / "results", HERE / "_generated")
render_peers.plot(
    render_peers.read(render_peers.RESULTS), HERE / "_generated" / "peers.png"
)
render_study.write(
    HERE.parent / "benchmarks" / "results" / "study", HERE / "_generated"
)
