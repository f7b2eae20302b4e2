"""The hub, with a folder in its place."""

import shutil
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest

from skchoice.exceptions import FileRefusedError
from skchoice.io import load_from_hub, push_to_hub


@pytest.fixture
def hub(tmp_path, monkeypatch):
    calls = []

    class Api:
        def __init__(self, token):
            calls.append(("token", token))

        def create_repo(self, repo_id, private, exist_ok):
            calls.append(("create", repo_id, private, exist_ok))
            (tmp_path / repo_id).mkdir(parents=True, exist_ok=exist_ok)

        def upload_file(self, path_or_fileobj, path_in_repo, repo_id, commit_message):
            shutil.copy(path_or_fileobj, tmp_path / repo_id / path_in_repo)
            return f"https://hub/{repo_id}/commit/1"

    def download(repo_id, filename, revision, token):
        calls.append(("download", repo_id, revision, token))
        return str(tmp_path / repo_id / filename)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return SimpleNamespace(folder=tmp_path, calls=calls)


def test_there_and_back(make, X, X_new, hub, assert_same_fit):
    sae = make(max_iter=1, n_calibration=600).partial_fit(X)
    address = push_to_hub(sae, "me/sae", private=True, token="secret")
    assert address == "https://hub/me/sae/commit/1"
    assert hub.calls == [("token", "secret"), ("create", "me/sae", True, True)]
    again = load_from_hub("me/sae", revision="v1")
    assert hub.calls[-1] == ("download", "me/sae", "v1", None)
    assert_same_fit(again, sae)
    assert (again.transform(X_new) != sae.transform(X_new)).nnz == 0
    # What others can download holds no rows of the data.
    data = (hub.folder / "me/sae" / "model.safetensors").read_bytes()
    assert np.asarray(X)[17].tobytes() not in data
    assert b"secret" not in data


def test_a_damaged_download_is_refused(make, X, hub):
    push_to_hub(make(max_iter=1).fit(X), "me/sae")
    (hub.folder / "me/sae" / "model.safetensors").write_bytes(b"{}")
    with pytest.raises(FileRefusedError):
        load_from_hub("me/sae")
