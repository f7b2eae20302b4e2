"""Models on the Hugging Face hub, through huggingface_hub where it is installed."""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import ModuleType

from skchoice.base import ChoiceSAE
from skchoice.loading import load

FILE_NAME = "model.safetensors"


def push_to_hub(
    sae: ChoiceSAE,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    commit_message: str = "Upload model",
) -> str:
    """Put a fitted estimator on the hub, in a repository that is made if need be.

    The file holds no training state, and so no rows of X.

    Parameters
    ----------
    sae : fitted estimator
        To be loaded by others.
    repo_id : str
        ``"owner/name"``.
    private : bool, optional
        Of a new repository; by default as the owner is set up.
    token : str, optional
        By default the one that the machine is logged in with.
    commit_message : str, default="Upload model"
        First line of the commit.

    Returns
    -------
    str
        Address of the commit.

    Examples
    --------
    >>> from skchoice import io
    >>> io.push_to_hub(sae, "owner/name", private=True)  # doctest: +SKIP
    """
    api = _huggingface_hub().HfApi(token=token)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, FILE_NAME)
        sae.save(path, training_state=False)
        api.create_repo(repo_id, private=private, exist_ok=True)
        commit = api.upload_file(
            path_or_fileobj=path,
            path_in_repo=FILE_NAME,
            repo_id=repo_id,
            commit_message=commit_message,
        )
    return str(commit)


def load_from_hub(
    repo_id: str, *, revision: str | None = None, token: str | None = None
) -> ChoiceSAE:
    """Read an estimator that :func:`push_to_hub` put on the hub.

    Parameters
    ----------
    repo_id : str
        ``"owner/name"``.
    revision : str, optional
        Branch, tag or commit; by default the newest of the main branch.
    token : str, optional
        By default the one that the machine is logged in with.

    Returns
    -------
    TokenChoiceSAE, MutualChoiceSAE or FeatureChoiceSAE
        As it was pushed; a :meth:`~skchoice.FeatureChoiceSAE.partial_fit` starts its
        optimizer anew.

    Raises
    ------
    FileRefusedError
        As :func:`skchoice.load`.

    Examples
    --------
    >>> from skchoice import io
    >>> sae = io.load_from_hub("owner/name", revision="v1")  # doctest: +SKIP
    """
    return load(
        _huggingface_hub().hf_hub_download(
            repo_id, FILE_NAME, revision=revision, token=token
        )
    )


def _huggingface_hub() -> ModuleType:
    try:
        import huggingface_hub
    except ImportError as error:
        raise ImportError(
            "The hub needs huggingface_hub: pip install huggingface_hub"
        ) from error
    return huggingface_hub
