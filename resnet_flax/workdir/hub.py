"""The Hugging Face Hub: download and upload folders written by `export`. Nothing in a download is executed."""

import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

from resnet_flax.errors import UserError, reason
from resnet_flax.models.weight_files import MAX_WEIGHTS_BYTES
from resnet_flax.text import short_repr

PREFIX = "hf:"
REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)
CACHED = re.compile(r"/models--([^/]+?)--([^/]+)/snapshots/")  # in the path of a file in the Hub's cache


def download(repository: str, names: Sequence[str]) -> Path:
    """Return the folder with the files `names` of a repository, in the Hub's cache.

    They are downloaded if there are newer ones; without a connection those in the cache are used. Raises UserError if
    there is no such repository, if it lacks a file or one is too large, and if the download fails.
    """
    hub = library(repository)
    with reported(hub, repository, "download"):
        check_files(hub, repository, names)
        return Path(hub.snapshot_download(repository, allow_patterns=list(names)))


def check_files(hub: ModuleType, repository: str, names: Sequence[str]) -> None:
    """Raise UserError if a repository lacks a file or has one that is too large, but not if it cannot be reached."""
    try:
        listed = hub.HfApi().model_info(repository, files_metadata=True).siblings or []
    except Exception:  # the download says why, unless the files are in the cache
        return
    sizes = {file.rfilename: file.size or 0 for file in listed}
    if missing := [name for name in names if name not in sizes]:
        lacks = " and no ".join(missing)
        raise UserError(f"{PREFIX}{repository} was not exported with --format=hub: it has no {lacks}")
    for name in names:
        if sizes[name] > MAX_WEIGHTS_BYTES:
            size = f"{sizes[name]:,} bytes, more than {MAX_WEIGHTS_BYTES:,}"
            raise UserError(f"{PREFIX}{repository}: {name} has {size}")


def upload(folder: Path, repository: str, names: Sequence[str]) -> str:
    """Upload the files `names` in `folder` to a repository, created if need be, and return its address."""
    hub = library(repository)
    with reported(hub, repository, "upload"):
        api = hub.HfApi()
        address = api.create_repo(repository, exist_ok=True)
        api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            allow_patterns=list(names),
            commit_message="Network exported by resnet_flax",
        )
    return str(address)


def library(repository: str) -> ModuleType:
    """Return the package for the Hub. Raises UserError if it is missing, or `repository` is not OWNER/NAME."""
    if not REPOSITORY.fullmatch(repository):
        raise UserError(f"a repository of the Hub is OWNER/NAME, not {short_repr(repository)}")
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError:
        raise UserError(
            f"{PREFIX}{repository} needs huggingface_hub: install it (pip install -c constraints.txt -e '.[hub]')"
        ) from None
    return huggingface_hub


@contextlib.contextmanager
def reported(hub: ModuleType, repository: str, what: str) -> Iterator[None]:
    """Raise a UserError for whatever fails in the Hub's library."""
    try:
        yield
    except UserError:
        raise
    except hub.errors.RepositoryNotFoundError:
        raise UserError(
            f"there is no {repository} on the Hub, or it is private: if so, log in with `hf auth login`"
        ) from None
    except hub.errors.LocalEntryNotFoundError as error:
        why = reason(error.__cause__ or error)
        raise UserError(f"the Hub cannot be reached ({why}), and {repository} is not in its cache") from None
    except Exception as error:  # the library, its HTTP client and the server raise many kinds
        raise UserError(f"cannot {what} {PREFIX}{repository}: {reason(error)}") from None


def repository_of(path: Path) -> str:
    """Return OWNER/NAME for a file in the cache of the Hub, "" for any other path."""
    found = CACHED.search(path.as_posix())
    return f"{found[1]}/{found[2]}" if found else ""
