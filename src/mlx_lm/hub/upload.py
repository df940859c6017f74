"""Uploading a model folder to the Hugging Face hub."""

from pathlib import Path

from ..errors import DownloadError, ModelNotFoundError

__all__ = ["upload"]


def upload(folder: str | Path, repo: str) -> None:
    """Creates the repository `repo` ("owner/name") if need be and uploads `folder`, but for what is there already.

    Raises:
        ModelNotFoundError: `folder` holds no model.
        DownloadError: the hub refuses or cannot be reached; the message says why.
    """
    path = Path(folder)
    if not (path / "config.json").is_file():
        raise ModelNotFoundError(f"{path} is not a model folder: it has no config.json.")
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi()
    try:
        api.create_repo(repo, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=str(path), commit_message="Upload MLX model")
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise DownloadError(f"{path} could not be uploaded to {repo}: {error}") from error
