"""Download from the Hugging Face hub; the library shows progress and resumes."""

from __future__ import annotations

from pathlib import Path

# fnmatch's `*` also matches `/`, so the second list keeps subfolders and second copies away.
WANTED = ("*.safetensors", "*.json", "tokenizer.model", "*.jinja")
UNWANTED = ("*/*", "consolidated*")


def download(
    hub_id: str, files: tuple[str, ...] = WANTED, by_hand: str = "--checkpoint DIR"
) -> Path:
    """Return the local folder of a repository's files, downloaded where they are not cached.

    `by_hand` is the option that takes the files from a folder DIR instead, for the error's text.
    Raises ValueError that says what to do where the hub cannot be reached or refuses.
    """
    # Imported here: checkpoints on disk need no network library. HTTPError is the base class of the
    # HTTP library that huggingface_hub uses, whichever that is.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        HTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        XetDownloadError,
    )

    instead = (
        f"`hf download {hub_id} --local-dir DIR` on a machine with a network, then `{by_hand}` here"
    )
    try:
        folder = snapshot_download(
            hub_id, allow_patterns=list(files), ignore_patterns=list(UNWANTED)
        )
    except HFValidationError as error:
        raise ValueError(f"{hub_id!r} is not a hub id: give ORG/NAME") from error
    except GatedRepoError as error:
        raise ValueError(
            f"{hub_id} is gated: accept its licence on the model's page of the Hugging Face hub, "
            f"run `hf auth login` with a token of that account and repeat; or {instead}"
        ) from error
    except RepositoryNotFoundError as error:
        raise ValueError(
            f"the Hugging Face hub has no public repository {hub_id}: check the name, or run "
            "`hf auth login` if it is private"
        ) from error
    except (LocalEntryNotFoundError, HTTPError, XetDownloadError, ConnectionError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"{hub_id} cannot be downloaded from the Hugging Face hub ({reason}): connect this "
            f"machine to the network and repeat, or {instead}"
        ) from error
    return Path(folder)
