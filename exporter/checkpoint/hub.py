"""Download from the Hugging Face hub; the library shows progress and resumes."""

from __future__ import annotations

from pathlib import Path

# fnmatch's `*` also matches `/`, so the second list keeps subfolders and second copies away.
WANTED = ("*.safetensors", "*.json", "tokenizer.model", "*.jinja")
UNWANTED = ("*/*", "consolidated*")
OLDER = ("pytorch_model*.bin",)  # where a repository has no safetensors


def download(
    hub_id: str, files: tuple[str, ...] = WANTED, by_hand: str = "--checkpoint DIR"
) -> Path:
    """Return the local folder of a repository's files, downloaded where they are not cached. `hub_id` is
    ORG/NAME or ORG/NAME@REVISION: a branch, a tag or a commit.

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
        RevisionNotFoundError,
        XetDownloadError,
    )

    hub_id, _, revision = hub_id.partition("@")
    command = f"hf download {hub_id}" + (f" --revision {revision}" if revision else "")
    instead = f"`{command} --local-dir DIR` on a machine with a network, then `{by_hand}` here"

    def snapshot(patterns: tuple[str, ...]) -> Path:
        return Path(snapshot_download(
            hub_id, revision=revision or None, allow_patterns=list(patterns), ignore_patterns=list(UNWANTED)
        ))  # fmt: skip

    try:
        folder = snapshot(files)
        if files == WANTED and not any(folder.glob("*.safetensors")):
            folder = snapshot((*WANTED, *OLDER))
    except HFValidationError as error:
        raise ValueError(f"{hub_id!r} is not a hub id: give ORG/NAME") from error
    except GatedRepoError as error:
        raise ValueError(
            f"{hub_id} is gated: accept its licence on the model's page of the Hugging Face hub, "
            f"run `hf auth login` with a token of that account and repeat; or {instead}"
        ) from error
    except RevisionNotFoundError as error:
        raise ValueError(
            f"the repository {hub_id} of the Hugging Face hub has no branch, tag or commit {revision!r}: "
            "check it, or leave it out"
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
    return folder
