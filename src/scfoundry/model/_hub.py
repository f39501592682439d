"""Weights on the Hugging Face Hub: ``hf://owner/name`` as a source, and a model's folder as a repository."""

from __future__ import annotations

import json
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from scfoundry._settings import settings
from scfoundry.model._folder import CARD_FILE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = ["PREFIX", "HubMixin", "fetch", "push"]

PREFIX = "hf://"
DEFAULT_REVISION = "main"
# No code is fetched: nothing in a repository is ever executed.
NEVER = ["*.py", "*.ipynb", "*.sh", "*.so"]
LICENCES = ("apache-2.0", "bsd-2-clause", "bsd-3-clause", "cc-by-4.0", "cc-by-nc-4.0", "mit")


def fetch(source: str) -> Path:
    """Folder with the files of ``hf://owner/name`` or ``hf://owner/name@revision``; only what changed is fetched.

    ValueError: if the name is no ``owner/name``. FileNotFoundError: if there is no such repository or revision, or it
    is private and no token was found. ConnectionError: if the hub cannot be reached and nothing was fetched before.
    """
    from huggingface_hub import snapshot_download

    name, _, revision = source.removeprefix(PREFIX).partition("@")
    folder = settings.cache_dir / "hub" / name / (revision or DEFAULT_REVISION)
    with explained(name, revision or DEFAULT_REVISION):
        snapshot_download(name, revision=revision or None, local_dir=folder, ignore_patterns=NEVER)
    return folder


def push(folder: Path, name: str, *, private: bool, token: str | None, revision: str | None, message: str) -> str:
    """Create the repository if there is none, upload a folder in one commit, and return its page."""
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    with explained(name, revision or DEFAULT_REVISION):
        api.create_repo(name, private=private, exist_ok=True)
        done = api.upload_folder(repo_id=name, folder_path=folder, revision=revision, commit_message=message)
    return str(done.repo_url)


@contextmanager
def explained(name: str, revision: str) -> Iterator[None]:
    """Say in terms of `scfoundry` what the hub refuses."""
    from huggingface_hub import errors

    try:
        yield
    except errors.HFValidationError as error:
        msg = f"{PREFIX}{name} names no repository: {cause(error)}. Such a source looks like hf://owner/name."
        raise ValueError(msg) from error
    except errors.RepositoryNotFoundError as error:
        msg = (
            f"The hub has no repository {name!r} that you may read. Check the name; if it is private, log in first: "
            "huggingface_hub.login()."
        )
        raise FileNotFoundError(msg) from error
    except errors.RevisionNotFoundError as error:
        msg = f"The repository {name!r} has no revision {revision!r}. Leave it out: {PREFIX}{name}."
        raise FileNotFoundError(msg) from error
    except errors.HfHubHTTPError as error:
        msg = (
            f"The hub refused {name!r}: {cause(error)}. A token that may write is needed to push: "
            "model.push_to_hub(..., token=...), or huggingface_hub.login()."
        )
        raise PermissionError(msg) from error
    except (errors.LocalEntryNotFoundError, errors.HTTPError) as error:
        msg = (
            f"The hub cannot be reached for {name!r}: {cause(error)}. Try again, or load a folder that you downloaded: "
            "from_pretrained(folder)."
        )
        raise ConnectionError(msg) from error


def cause(error: Exception) -> str:
    """Text of an error, as part of a sentence."""
    return " ".join(str(error).split()).rstrip(".")


def with_metadata(card: str, description: Mapping[str, Any]) -> str:
    """Model card with what the hub reads of it, as YAML in front; JSON values are YAML."""
    licence = str(description.get("licence", "")).lower()
    fields: dict[str, Any] = {
        "library_name": "scfoundry",
        "license": licence if licence in LICENCES else "other",
        "tags": ["single-cell", "genomics", "biology", description["model"]],
    }
    if licence and fields["license"] == "other":
        fields["license_name"] = description["licence"]
    lines = [f"{name}: {json.dumps(value)}" for name, value in fields.items()]
    return "\n".join(["---", *lines, "---", "", card])


class HubMixin:
    """A model that `save_pretrained` writes can be pushed."""

    name: ClassVar[str]
    description_: dict[str, Any]
    save_pretrained: Callable[..., None]

    def push_to_hub(
        self,
        name: str,
        *,
        private: bool = False,
        token: str | None = None,
        revision: str | None = None,
        message: str | None = None,
        dtype: torch.dtype = torch.float32,
        licence: str | None = None,
        trained_on: str | None = None,
        card: str | None = None,
    ) -> str:
        """Upload what `save_pretrained` writes to the Hugging Face Hub.

        The model card gets the library's name, licence and tags in front. Load the weights anywhere with
        ``from_pretrained("hf://owner/name")``.

        Parameters
        ----------
        name
            Repository, ``"owner/name"``; created if there is none. The weights get its name.
        private
            Whether a new repository is private.
        token
            Token that may write; that of ``huggingface_hub.login()`` if `None`.
        revision, message
            Branch and commit message.
        dtype, licence, trained_on, card
            As in `save_pretrained`.

        Returns
        -------
        Address of the repository.

        Raises
        ------
        ValueError
            If the name is not ``"owner/name"``.
        PermissionError, ConnectionError
            If the hub refuses the token, or cannot be reached.

        Examples
        --------
        >>> import scfoundry as sf
        >>> model = sf.model.CellPLM.from_pretrained("cellplm-mini")
        >>> model.push_to_hub("my-lab/cellplm-liver", licence="MIT")  # doctest: +SKIP
        """
        weights = name.rpartition("/")[2]
        about = {"weights": weights, "licence": licence, "trained_on": trained_on}
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, dtype=dtype, card=card, **about)
            saved = Path(folder) / CARD_FILE
            described = {"model": self.name, "licence": licence or self.description_.get("licence")}
            saved.write_text(with_metadata(saved.read_text(), described))
            what = message or f"Weights {weights}, by scfoundry"
            return push(Path(folder), name, private=private, token=token, revision=revision, message=what)
