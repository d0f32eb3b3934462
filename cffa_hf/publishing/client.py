"""The client of the Hub: repositories that may be written, their cards, and one commit for each publication."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import filter_repo_objects, validate_repo_id

from cffa_hf.errors import InputError, one_line


@dataclass(frozen=True)
class Repository:
    """A repository that may be written.

    Attributes:
        name: `owner/name`.
        private: Whether only its owners see it.
    """

    name: str
    private: bool


def check_repo_id(repo_id: str) -> None:
    """Check the name of a repository.

    Raises:
        InputError: If it is not valid.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise InputError(f"{repo_id!r} is no name of a repository: write owner/name ({one_line(error)}).") from error


def open_repository(
    repo_id: str,
    repo_type: str = "model",
    *,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    token: str | None = None,
) -> Repository:
    """Make sure that a repository and its branch are there and that the token may write.

    Args:
        repo_id: `owner/name` or `name`.
        repo_type: "model", "dataset" or "space".
        private: Whether a new one is private.
        revision: Branch that is made if need be.
        create_pr: Whether a pull request is wanted; then nothing is made where the repository exists.
        token: None: the saved one.

    Returns:
        Its full name and whether it is private.

    Raises:
        InputError: If there is no token, or one that may not write, or the name is impossible.
    """
    check_repo_id(repo_id)
    if create_pr and revision not in (None, "main"):
        raise InputError(f"revision {revision} and create_pr exclude each other: pull requests are made to main.")
    token = token or get_token()
    if not token:
        raise InputError(
            "There is no Hugging Face token: run `hf auth login`, or set HF_TOKEN to a token with write permission."
        )
    api = HfApi(token=token)
    with clear_errors(repo_id):
        account = api.whoami()
        role = account.get("auth", {}).get("accessToken", {}).get("role")
        if role == "read":
            raise InputError(
                f"The Hugging Face token of {account.get('name')} may only read: make one with write permission at "
                f"{api.endpoint}/settings/tokens and give it to `hf auth login` or HF_TOKEN."
            )
        if "/" not in repo_id:
            repo_id = f"{account['name']}/{repo_id}"
        try:
            private = bool(api.repo_info(repo_id, repo_type=repo_type).private)
        except RepositoryNotFoundError:
            sdk = "gradio" if repo_type == "space" else None
            api.create_repo(repo_id, repo_type=repo_type, private=private, exist_ok=True, space_sdk=sdk)
        if revision not in (None, "main") and not revision.startswith("refs/"):
            api.create_branch(repo_id, branch=revision, repo_type=repo_type, exist_ok=True)
    return Repository(repo_id, bool(private))


def read_readme(repo_id: str, repo_type: str, *, revision: str | None = None, token: str | None = None) -> str | None:
    """Read the card that is on the Hub now; None if there is none.

    Raises:
        InputError: If the Hub cannot be reached or refuses.
    """
    api = HfApi(token=token)
    with clear_errors(repo_id):
        try:
            # A single request first: without a network the download itself would be tried for half a minute.
            info = api.repo_info(repo_id, repo_type=repo_type, revision=revision, timeout=10)
        except (RepositoryNotFoundError, RevisionNotFoundError):
            return None
        if not api.file_exists(repo_id, "README.md", repo_type=repo_type, revision=info.sha):
            return None
        path = api.hf_hub_download(repo_id, "README.md", repo_type=repo_type, revision=info.sha)
        return Path(path).read_text(encoding="utf-8")


def commit_folder(
    folder: Path,
    repo_id: str,
    repo_type: str,
    *,
    owned: Sequence[str] = (),
    revision: str | None = None,
    create_pr: bool = False,
    token: str | None = None,
    commit_message: str,
) -> CommitInfo:
    """Make a folder the content of a repository in one commit, atomically.

    `upload_folder` would make several commits of a large folder.

    Args:
        folder: All its files are published.
        repo_id: `owner/name`.
        repo_type: As for `open_repository`.
        owned: Patterns of files that belong to the publication: what matches in the repository and is not in the
            folder is deleted. Other files stay.
        revision: Branch; None: main.
        create_pr: Open a pull request instead.
        token: None: the saved one.
        commit_message: Title of the commit.

    Raises:
        InputError: If the connection breaks off or the Hub refuses.
    """
    api = HfApi(token=token)
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    with clear_errors(repo_id):
        there = api.list_repo_files(repo_id, repo_type=repo_type, revision=revision) if owned else []
        stale = [name for name in filter_repo_objects(there, allow_patterns=list(owned)) if name not in files]
        return api.create_commit(
            repo_id,
            [
                *(CommitOperationAdd(name, path) for name, path in files.items()),
                *(CommitOperationDelete(name) for name in stale),
            ],
            commit_message=commit_message,
            repo_type=repo_type,
            revision=revision,
            create_pr=create_pr,
        )


@contextmanager
def clear_errors(repo_id: str) -> Iterator[None]:
    """Turn what the client raises into one sentence that says what to do."""
    endpoint = HfApi().endpoint
    again = "the repository is as it was before; run the same command again"
    try:
        yield
    except InputError:
        raise
    except LocalTokenNotFoundError as error:
        raise InputError("There is no Hugging Face token: run `hf auth login`, or set HF_TOKEN.") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        said = (error.server_message or str(error).splitlines()[0]).strip().rstrip(".")
        if status == 401:
            message = f"{endpoint} does not accept the token: run `hf auth login` with a new one, or fix HF_TOKEN"
        elif status == 403:
            message = f"The token may not write to {repo_id}: take one with write permission there"
        elif status == 404:
            message = f"{endpoint} has no {repo_id} that this token may see: check its name, the revision and the token"
        else:
            message = f"{endpoint} answered {status}, and {again}"
        raise InputError(f"{message} ({said}).") from error
    except OfflineModeIsEnabled as error:
        raise InputError("The Hub is switched off by HF_HUB_OFFLINE: unset it to publish.") from error
    except (HTTPError, OSError, RuntimeError) as error:
        reason = one_line(error.__cause__ or error, 200)
        raise InputError(f"The connection to {endpoint} broke off, and {again} ({reason}).") from error
    except ValueError as error:
        raise InputError(f"{repo_id} cannot be published: {one_line(error)}.") from error
