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
    sae : estimator
    repo_id : str
        ``"owner/name"``.
    private : bool, optional
        Of a new repository; by default as the owner is set up.
    token : str, optional
        By default the one that the machine is logged in with.
    commit_message : str

    Returns
    -------
    str
        Address of the commit.
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
    revision : str, optional
        Branch, tag or commit.
    token : str, optional

    Returns
    -------
    TokenChoiceSAE, MutualChoiceSAE or FeatureChoiceSAE

    Raises
    ------
    FileRefusedError
        As :func:`skchoice.load`.
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
