"""Warnings and errors of their own class, so that each can be filtered or caught."""


class SAEWarning(UserWarning):
    """Base of all warnings of this library."""


class FewRowsWarning(SAEWarning):
    """There are fewer rows than features: most features can't be learned."""


class ConstantRowsWarning(SAEWarning):
    """All rows are equal: there is nothing to learn."""


class OutlierRowsWarning(SAEWarning):
    """A few rows of huge norm hold much of the variance."""


class UnfilledBudgetWarning(SAEWarning):
    """Too few positive affinities to use up the budget of matches."""


class DivergenceWarning(SAEWarning):
    """Training ended with an error larger than the variance of X."""


class DictionaryCollapseWarning(SAEWarning):
    """Many features have the same decoder direction."""


class StoreError(ValueError):
    """A store on disk is damaged, of a newer version, or of another configuration."""
