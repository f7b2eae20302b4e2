"""OpenAI's sparse_autoencoder: one file of torch.save, TopK on GPT-2."""

from __future__ import annotations

from os import PathLike

from skchoice.base import ChoiceSAE
from skchoice.exceptions import FileRefusedError
from skchoice.io import foreign, imported

_SHAPES = {
    "encoder.weight": "Fd",
    "decoder.weight": "dF",
    "pre_bias": "d",
    "latent_bias": "F",
}
_STATISTICS = (
    "stats_last_nonzero",
    "latents_activation_frequency",
    "latents_mean_square",
)


def from_openai(path: str | PathLike, *, layer_normed: bool = False) -> ChoiceSAE:
    """Read a TopK autoencoder of OpenAI.

    Parameters
    ----------
    path : str or path-like
        State dict, of which only plain values and tensors are read.
    layer_normed : bool, default=False
        These autoencoders see each row less its mean, divided by its standard deviation
        (with ``n - 1``) plus 1e-5, and undo that on their output. The estimator does
        neither: say True to confirm that it gets rows in that form, and gives them.

    Returns
    -------
    TokenChoiceSAE
        Only what inference needs is fitted.

    Raises
    ------
    FileRefusedError
        If the file is damaged, is not of a TopK autoencoder, or ``layer_normed`` is
        False.

    Examples
    --------
    >>> import tempfile
    >>> import torch
    >>> from skchoice import io
    >>> state = {  # of 4 features in 3 columns
    ...     "encoder.weight": torch.eye(4, 3),
    ...     "decoder.weight": torch.full((3, 4), 3**-0.5),
    ...     "pre_bias": torch.zeros(3),
    ...     "latent_bias": torch.zeros(4),
    ...     "activation": "TopK",
    ...     "activation_state_dict": {"k": 1},
    ... }
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     torch.save(state, f"{folder}/autoencoder.pt")
    ...     sae = io.from_openai(f"{folder}/autoencoder.pt", layer_normed=True)
    >>> sae.transform([[2.0, 1.0, 0.0]]).toarray()
    array([[2., 0., 0., 0.]])
    """
    state = dict(foreign.read_pickled(path))
    if not layer_normed:
        raise FileRefusedError(
            f"{path}: OpenAI's TopK autoencoders encode rows that are layer-normed, "
            "(x - mean) / (std + 1e-5) over the columns, which this estimator does not "
            "do by itself. Give it such rows, and say so with layer_normed=True."
        )
    activation = state.pop("activation", None)
    settings = state.pop("activation_state_dict", {})
    for name in _STATISTICS:
        state.pop(name, None)
    if activation != "TopK" or not isinstance(settings, dict) or "k" not in settings:
        raise FileRefusedError(
            f"{path} has activation {activation!r}; only 'TopK', with its k, can be "
            "read."
        )
    if settings.get("postact_fn", "ReLU") != "ReLU":
        raise FileRefusedError(
            f"{path} has postact_fn {settings['postact_fn']!r}: its codes may be "
            "negative, which no estimator here allows."
        )
    arrays = foreign.tensors(path, state, _SHAPES)
    weights = imported.Weights(
        arrays["encoder.weight"],
        arrays["latent_bias"],
        arrays["decoder.weight"].T,
        arrays["pre_bias"],
        None,
    )
    provenance = {"imported_from": "openai/sparse_autoencoder"}
    return imported.estimator(path, weights, settings["k"], provenance)
