"""Errors and warnings of their own class, so that each can be caught or filtered."""


class FileRefusedError(ValueError):
    """A file is damaged, of another kind, or not what it should be; none was loaded."""


class InexactExportError(ValueError):
    """The format of another library cannot hold this model exactly."""


class StoreError(ValueError):
    """A store on disk is damaged, of a newer version, or of another configuration."""


class DivergenceError(ValueError):
    """Training has diverged; the estimator is as it was before."""


class SAEWarning(UserWarning):
    """Base of all warnings of this library."""


class FewRowsWarning(SAEWarning):
    """There are fewer rows than features: most features can't be learned."""


class ConstantRowsWarning(SAEWarning):
    """All rows are equal: there is nothing to learn."""


class OutlierRowsWarning(SAEWarning):
    """A few rows of huge norm hold much of the variance."""


class FewCalibrationRowsWarning(SAEWarning):
    """The sample for the thresholds is too small for L0 to come out at k."""


class ShortWindowWarning(SAEWarning):
    """``dead_after`` is so short that healthy features count as dead."""


class UnfilledBudgetWarning(SAEWarning):
    """Too few positive affinities to use up the budget of matches."""


class DivergenceWarning(SAEWarning):
    """Training ended with an error larger than the variance of X."""


class DictionaryCollapseWarning(SAEWarning):
    """Many features have the same decoder direction."""


class CheckpointWarning(SAEWarning):
    """A checkpoint could not be written or read; training goes on without it."""
