# SPDX-License-Identifier: Apache-2.0
"""Publishing of a folder: check it, upload it in one commit, load that commit back, compare the results."""

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, cached_assets_path, constants
from huggingface_hub.errors import HFValidationError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import validate_repo_id

from modeling_lavis.files import whole_file
from modeling_lavis.hub.attached_code import attached_code
from modeling_lavis.hub.downloads import LIBRARY
from modeling_lavis.hub.json_files import read_object
from modeling_lavis.hub.loading_check import Loaded, compare, link_parts, load_in_process
from modeling_lavis.hub.repository_files import (
    CARD,
    FolderError,
    FolderListing,
    RepositoryFile,
    check_folder,
    list_folder,
    replaced_files,
)

_COMMIT = re.compile(r"[0-9a-f]{40}")
_MAIN = constants.DEFAULT_REVISION


@dataclass(frozen=True)
class PublishReport:
    """
    What [`publish`] has done, or would do.

    Args:
        folder (`Path`): the folder.
        repo_id (`str`): the repository on the Hub.
        files (`tuple[RepositoryFile, ...]`): published files with their sizes in bytes.
        left_out (`tuple[str, ...]`): files of the folder that are not published.
        model_class (`str`): class that the repository loads into.
        code_version (`str`, *optional*): version of this package that the attached code is from; `None` without code.
        card_changed (`bool`): whether examples of the card named the folder, and name the repository now.
        deleted (`tuple[str, ...]`): files of an earlier model that were deleted from the repository.
        private (`bool`, *optional*): whether the repository is private; `None` in a dry run.
        revision (`str`, *optional*): branch or reference of the pull request that has the commit.
        commit (`str`, *optional*): the commit that was loaded back; `None` in a dry run.
        url (`str`, *optional*): address of that commit, or of the pull request.
        changed (`bool`): whether the upload made a new commit; the repository may have had all files already.
        compared (`int`): number of tensors that are equal, bit for bit, for the folder and for the commit.
    """

    folder: Path
    repo_id: str
    files: tuple[RepositoryFile, ...]
    left_out: tuple[str, ...]
    model_class: str
    code_version: str | None
    card_changed: bool = False
    deleted: tuple[str, ...] = ()
    private: bool | None = None
    revision: str | None = None
    commit: str | None = None
    url: str | None = None
    changed: bool = False
    compared: int = 0

    @property
    def size(self) -> int:
        """Size of all files in bytes."""
        return sum(file.size for file in self.files)

    def as_dict(self) -> dict[str, object]:
        """Return the report as a dictionary that can be serialized as JSON."""
        return {
            "folder": str(self.folder),
            "repo_id": self.repo_id,
            "files": {file.path: file.size for file in self.files},
            "size": self.size,
            "left_out": list(self.left_out),
            "model_class": self.model_class,
            "code_version": self.code_version,
            "card_changed": self.card_changed,
            "deleted": list(self.deleted),
            "private": self.private,
            "revision": self.revision,
            "commit": self.commit,
            "url": self.url,
            "changed": self.changed,
            "compared": self.compared,
        }

    def __str__(self) -> str:
        width = max(len(f"{file.size:,}") for file in self.files)
        lines = [f"{self.folder} -> {self.repo_id} ({self.model_class})"]
        lines += [f"  {file.size:>{width},}  {file.path}" for file in self.files]
        lines.append(f"  {self.size:>{width},}  bytes in {len(self.files)} files")
        if self.left_out:
            lines.append(f"  left out     {', '.join(self.left_out)}")
        if self.code_version:
            lines.append(f"  code         of modeling-lavis {self.code_version}, unchanged")
        if self.card_changed:
            verb = "name" if self.commit else "will name"
            lines.append(f"  card         its examples {verb} {self.repo_id}, not the folder")
        if self.commit is None:
            return "\n".join([*lines, "  Nothing was uploaded (dry run)."])
        if self.deleted:
            lines.append(f"  deleted      {', '.join(self.deleted)} (of the model that was there)")
        lines.append(f"  {'committed' if self.changed else 'unchanged'}    {self.commit} ({self.revision})")
        lines.append(f"  loaded back  {self.compared} tensors equal those of the folder bit for bit")
        return "\n".join([*lines, f"  {'private' if self.private else 'public'}      {self.url}"])


def publish(
    folder: str | os.PathLike[str],
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    dry_run: bool = False,
    include: Iterable[str] = (),
    exclude: Iterable[str] = (),
    commit_message: str | None = None,
    token: str | None = None,
    on_step: Callable[[str], None] | None = None,
) -> PublishReport:
    """
    Publish the folder of a model on the Hub, and return only when what was uploaded loads and computes the same.

    1. The folder is checked: weights are whole and safetensors, configurations, processor and card are there and valid,
       attached code is that of the release that its record names, and no file is a pickle or does not belong to a
       model. The folder is loaded in a fresh process and run on fixed images (or videos) and texts.
    2. All files are uploaded in one commit, so that a partial upload is never visible. Files that the Hub has already
       are not sent again, so that an interrupted upload continues when it is repeated. Weights, configurations and
       code of an earlier model in the repository are deleted in the same commit; other files stay.
    3. The SHA-256 of every file in the commit is compared, and the commit is downloaded, loaded and run in a fresh
       process; with attached code a second time, in a process that cannot import this package. Every tensor that the
       processor and the head compute is compared, bit for bit, with that of the folder.

    The command `modeling-lavis publish` does the same.

    Args:
        folder (`str` or `os.PathLike`): folder that a conversion, a Trainer or `save_pretrained` wrote.
        repo_id (`str`): repository, `"ORG/NAME"`; it is created if there is none. Examples of the card that name the
            folder, as a conversion writes them, are changed in the folder to name the repository.
        private (`bool`, *optional*, defaults to `False`): create the repository as a private one. One that exists has
            to be private already.
        revision (`str`, *optional*, defaults to `"main"`): branch, created if there is none, or the reference of a pull
            request, `"refs/pr/N"`.
        create_pr (`bool`, *optional*, defaults to `False`): open a pull request instead of committing to the branch.
        dry_run (`bool`, *optional*, defaults to `False`): only check and list the files, without network.
        include (`Iterable[str]`, *optional*): patterns of files to publish in addition to those of a model.
        exclude (`Iterable[str]`, *optional*): patterns of files to leave out. State of a training run, such as
            checkpoints, always stays here.
        commit_message (`str`, *optional*): first line of the commit.
        token (`str`, *optional*): token of the Hub; defaults to `HF_TOKEN` or the one of `hf auth login`.
        on_step (`Callable`, *optional*): called with a short text at every step.

    Returns:
        [`PublishReport`].

    Raises:
        ValueError: If an argument is wrong. [`~modeling_lavis.hub.repository_files.FolderError`], a ValueError, lists
            everything that is wrong with the folder.
        OSError: If the folder does not load, the upload fails, or what was uploaded is not the same.
    """
    folder, say = Path(folder).expanduser(), on_step or (lambda step: None)
    check_target(repo_id, revision, create_pr)
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is not a folder. Give the folder of a saved model.")
    listing = list_folder(folder, include, exclude)
    problems = check_folder(folder, listing)
    if problems:
        raise FolderError(folder, problems)
    code = attached_code(folder)
    card = _card_for(folder, repo_id)
    with tempfile.TemporaryDirectory(prefix="modeling-lavis-") as work:
        say("loading the folder")
        local = load_in_process(str(folder.resolve()), Path(work), "local", offline=dry_run)
        if code is not None:
            say("loading the folder by its attached code")
            by_code = load_in_process(
                str(folder.resolve()), Path(work), "local-code", with_package=False, offline=dry_run
            )
            compare(local, by_code, f"the attached code of {folder}")
        report = PublishReport(
            folder=folder,
            repo_id=repo_id,
            files=listing.files,
            left_out=listing.left_out,
            model_class=local.facts["class"],
            code_version=code.version if code is not None else None,
            card_changed=card is not None,
        )
        if dry_run:
            return report
        if card is not None:
            with whole_file(folder / CARD) as partial:
                partial.write_text(card, encoding="utf-8")
            listing = list_folder(folder, include, exclude)
            report = replace(report, files=listing.files)
        say(f"uploading {len(listing.files)} files, {listing.size:,} bytes")
        api = HfApi(token=token)
        operations = [CommitOperationAdd(file.path, file.local) for file in listing.files]
        report = _upload(api, report, listing, operations, private, revision, create_pr, commit_message)
        say(f"loading back commit {report.commit}")
        where = f"commit {report.commit} of {repo_id}"
        try:
            _compare_files(api, report, operations, where)
            compared = _load_back(report, local, token, Path(work), code is not None, where)
        except OSError as error:
            again = f" with --revision {report.revision} instead of --create-pr" if report.revision != _MAIN else ""
            raise OSError(
                f"{_one_line(error)}. The upload itself is complete; repeat the command{again if create_pr else ''} to "
                "check it again."
            ) from error
    return replace(report, compared=compared)


def publish_conversion(folder: Path, repo_id: str) -> str:
    """
    Publish the repository that a conversion has written.

    Args:
        folder (`Path`): the folder.
        repo_id (`str`): repository, `"ORG/NAME"`.

    Returns:
        `str`: address of the commit.

    Raises:
        OSError: If it is not published. The message says that the conversion is complete, and how to try again.
    """
    try:
        report = publish(folder, repo_id, commit_message="Weights converted from the original checkpoint")
    except (OSError, ValueError) as error:
        raise OSError(
            f"The repository is complete in {folder}, but not published: {error}\nTry again with: "
            f"modeling-lavis publish {folder} {repo_id}"
        ) from error
    return str(report.url)


def check_target(repo_id: str, revision: str | None = None, create_pr: bool = False) -> None:
    """
    Check where [`publish`] is to publish, without network.

    Raises:
        ValueError: If the name is not that of a repository, or the revision cannot have a new commit.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"{repo_id!r} is not the name of a repository: {error}") from error
    if repo_id.count("/") != 1:
        raise ValueError(f"{repo_id!r} does not say whose repository it is; expected ORG/NAME.")
    if revision is not None and _COMMIT.fullmatch(revision):
        raise ValueError(f"revision is the commit {revision}, which cannot change. Give the name of a branch.")
    if create_pr and revision not in (None, _MAIN):
        raise ValueError(
            f"A pull request is opened against {_MAIN}, and revision is {revision!r}. Leave one of them out; refs/pr/N "
            "as revision adds a commit to an open pull request."
        )


def _card_for(folder: Path, repo_id: str) -> str | None:
    """The card with examples that load `repo_id` where they loaded the folder by its name; `None` if none did."""
    text = (folder / CARD).read_text(encoding="utf-8")
    name = re.escape(folder.resolve().name)
    changed = re.sub(
        rf"""((?:from_pretrained\(|\bmodel=)\s*["'])(?:\./)?{name}/?(["'])""",
        lambda found: f"{found[1]}{repo_id}{found[2]}",
        text,
    )
    return changed if changed != text else None


def _upload(
    api: HfApi,
    report: PublishReport,
    listing: FolderListing,
    operations: list[CommitOperationAdd],
    private: bool,
    revision: str | None,
    create_pr: bool,
    commit_message: str | None,
) -> PublishReport:
    """The report with commit, address and deleted files."""
    repo_id = report.repo_id
    try:
        api.create_repo(repo_id, private=private or None, exist_ok=True)
        is_private = bool(api.model_info(repo_id).private)
        if private and not is_private:
            raise PermissionError(
                f"{repo_id} exists and is public, so nothing was uploaded. Make it private in its settings, or choose "
                "another name."
            )
        if revision not in (None, _MAIN) and not str(revision).startswith("refs/"):
            api.create_branch(repo_id, branch=str(revision), exist_ok=True)
        before = api.model_info(repo_id, revision=revision).sha
        deleted = replaced_files(_remote_files(api, repo_id, before), listing)
        commit = api.create_commit(
            repo_id,
            [*operations, *(CommitOperationDelete(path) for path in deleted)],
            commit_message=commit_message or f"Publish {report.model_class}",
            revision=revision,
            create_pr=create_pr,
            parent_commit=before,
        )
    except PermissionError:  # to repeat the command would not help
        raise
    except Exception as error:  # the errors of HTTP clients have no common base across versions
        raise OSError(
            f"{report.folder} cannot be uploaded to {repo_id}: {_with_cause(error)}. Repeat the "
            "command: files that have arrived are not sent again."
        ) from error
    endpoint = api.endpoint.rstrip("/")
    return replace(
        report,
        deleted=tuple(deleted),
        private=is_private,
        revision=commit.pr_revision or revision or _MAIN,
        commit=commit.oid,
        url=commit.pr_url or f"{endpoint}/{repo_id}/tree/{commit.oid}",
        changed=commit.oid != before,
    )


def _compare_files(api: HfApi, report: PublishReport, operations: Iterable[CommitOperationAdd], where: str) -> None:
    """Raise `OSError` unless the Hub has, in the commit, every file with the hash of the one here."""
    try:
        remote = _remote_files(api, report.repo_id, report.commit)
    except Exception as error:  # as above
        raise OSError(f"{where} was uploaded, but cannot be listed: {_one_line(error)}") from error
    for operation in operations:
        entry = remote.get(operation.path_in_repo)
        if entry is None:
            same = False
        elif entry.lfs is not None:
            same = entry.lfs.sha256 == operation.upload_info.sha256.hex()
        else:
            same = entry.blob_id == _git_hash(Path(str(operation.path_or_fileobj)))
        if not same:
            raise OSError(
                f"{where} does not have the {operation.path_in_repo} of {report.folder}. The file was changed during "
                "the upload, or the Hub has damaged it."
            )


def _remote_files(api: HfApi, repo_id: str, commit: str | None) -> dict[str, RepoFile]:
    """Files of a commit on the Hub, by path."""
    entries = api.list_repo_tree(repo_id, recursive=True, revision=commit)
    return {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}


def _git_hash(path: Path) -> str:
    """The hash by which git names the content of a file."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _load_back(report: PublishReport, local: Loaded, token: str | None, work: Path, with_code: bool, where: str) -> int:
    """Load the commit as others will, compare, and return the number of equal tensors."""
    # In a cache of its own, so that everything is downloaded. It is kept if the download is interrupted, so that it
    # continues when the command is repeated.
    cache = cached_assets_path(LIBRARY, "published", str(report.commit), assets_dir=constants.HF_ASSETS_CACHE)
    link_parts(read_object(report.folder / "config.json").get("frozen_parts"), cache)
    access: dict[str, Any] = {"revision": report.commit, "cache": cache, "token": token}
    loaded = {}
    for name, with_package in (("with", True), *((("without", False),) if with_code else ())):
        loaded[name] = load_in_process(report.repo_id, work, f"remote-{name}", with_package=with_package, **access)
    shutil.rmtree(cache, ignore_errors=True)
    for name, results in loaded.items():
        compare(local, results, f"{where}, loaded back {name} this package,")
    return len(local.tensors())


def _with_cause(error: BaseException) -> str:
    """What went wrong, and why: huggingface_hub names the file, and the status of the server is in the cause."""
    return _one_line(error) if error.__cause__ is None else f"{_one_line(error)} ({_one_line(error.__cause__)})"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


__all__ = ["PublishReport", "check_target", "publish", "publish_conversion"]
