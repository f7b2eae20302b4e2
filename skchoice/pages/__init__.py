"""Pages to look at features with: one static HTML file, and nothing to run."""

from skchoice.pages.build import report

__all__ = ["report"]
