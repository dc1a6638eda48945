"""Checkpoints from the Hugging Face hub, by id and revision.

Design decisions:
- huggingface_hub downloads: it resumes what was broken off and gives a file its name when it is whole.
- A file's name in its cache is the hash of its content, of large files sha256 and of small ones git's: each
  is held against it once it is here, and one that differs is removed, so that the next try loads it again.
- Only weights, configs and tokenizers are asked for, PyTorch's own files where there are no safetensors.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from rankbound.corpora.corpus import file_sha256
from rankbound.errors import InputError
from rankbound.pretrained.weights import CONFIG, INDEX, PICKLED, SAFETENSORS

_TEXTS = (CONFIG, "generation_config.json", "tokenizer.json", "tokenizer_config.json")
_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_SHA256, _GIT = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{40}")


def is_hub_id(source: str) -> bool:
    """Whether a name that is no path could be a hub id: `name` or `owner/name`."""
    return bool(_ID.fullmatch(source)) and not source.startswith((".", "-"))


def download(repo: str, revision: str | None = None) -> Path:
    """A local folder with a model's config, tokenizer and weights; what is there is not loaded again.

    Raises:
        InputError: no such model or revision, one that asks for access, no network, or a damaged file.
    """
    folder = _snapshot(repo, revision, [*_TEXTS, *_weights(SAFETENSORS)])
    if not any((folder / name).exists() for name in (SAFETENSORS, SAFETENSORS + INDEX)):
        folder = _snapshot(repo, revision, [*_TEXTS, *_weights(PICKLED)])
    for path in sorted(folder.iterdir()):
        _check(path, repo)
    return folder


def _weights(name: str) -> Sequence[str]:
    stem, dot, suffix = name.partition(".")
    return name, name + INDEX, f"{stem}-*{dot}{suffix}"


def _snapshot(repo: str, revision: str | None, wanted: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )
    from huggingface_hub.utils import logging
    from huggingface_hub.utils.tqdm import disable_progress_bars

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # what went wrong is said below, in one line
    if not sys.stderr.isatty():
        disable_progress_bars()
    at = f"{repo} at revision {revision}" if revision else repo
    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=list(wanted)))
    except HFValidationError as failure:
        raise InputError(f"{repo} is neither a file, a folder nor a Hugging Face id") from failure
    except GatedRepoError as failure:
        raise InputError(
            f"{repo} asks for access: accept its terms on its page, then log in with hf auth login"
        ) from failure
    except RevisionNotFoundError as failure:
        raise InputError(f"{repo} has no revision {revision} on the Hugging Face hub") from failure
    except RepositoryNotFoundError as failure:
        raise InputError(
            f"{repo} is neither a file, a folder nor a model on the Hugging Face hub that can be seen"
        ) from failure
    except LocalEntryNotFoundError as failure:
        raise InputError(
            f"{at} is not in the local cache and the Hugging Face hub cannot be reached: "
            "give the path of a local folder, or try again with network"
        ) from failure
    except Exception as failure:  # also of the HTTP library, which differs by version
        why = " ".join(str(failure).split())[:120]
        raise InputError(
            f"{at} could not be loaded from the Hugging Face hub ({why}); try again"
        ) from failure


def _check(path: Path, repo: str) -> None:
    blob = path.resolve()
    if not blob.is_file():
        return
    large, small = _SHA256.fullmatch(blob.name), _GIT.fullmatch(blob.name)
    found = file_sha256(blob) if large else _git_sha1(blob.read_bytes()) if small else blob.name
    if found != blob.name:
        blob.unlink()
        raise InputError(f"{path.name} of {repo} was damaged in the local cache and is removed: try again")


def _git_sha1(content: bytes) -> str:
    """Git's name of a file with this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
