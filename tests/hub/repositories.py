"""Repositories of the loopback Hub: contents, commits, branches, tags and pull requests, with the Hub's ids."""

import datetime
import fnmatch
import hashlib
import json
import secrets
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

#: names that the Hub stores as large files whatever they contain, as in the `.gitattributes` of a new repository
LARGE_FILES = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.ckpt", "*.onnx", "*.npz", "*.npy", "*.zip", "*.msgpack")
GIT_ATTRIBUTES = "".join(f"{name} filter=lfs diff=lfs merge=lfs -text\n" for name in LARGE_FILES).encode()
LARGE_SIZE = 10_000_000


def git_id(content: bytes) -> str:
    """The id that git gives a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def pointer(sha256: str, size: int) -> bytes:
    """What git holds in place of a large file."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def is_large(path: str, sample: bytes, size: int) -> bool:
    """Whether the Hub stores a file as a large one: by its name, its size, or because it is not text."""
    if size == 0:
        return False
    named = any(fnmatch.fnmatchcase(path.rpartition("/")[2], pattern) for pattern in LARGE_FILES)
    return named or size >= LARGE_SIZE or b"\0" in sample


@dataclass(frozen=True)
class Blob:
    """A file in a commit: its sha256 and size, and whether it is stored as a large file behind a pointer."""

    sha256: str
    size: int
    large: bool
    oid: str

    @property
    def etag(self) -> str:
        return self.sha256 if self.large else self.oid


class ObjectStore:
    """Contents by their sha256, one file each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, sha256: str) -> Path:
        return self.folder / sha256

    def add(self, content: bytes) -> str:
        sha256 = hashlib.sha256(content).hexdigest()
        if not self.path(sha256).exists():
            partial = self.folder / f".{secrets.token_hex(8)}"
            partial.write_bytes(content)
            partial.replace(self.path(sha256))
        return sha256

    def blob(self, path: str, content: bytes) -> Blob:
        """Store a file of a commit, as a large one if the Hub would."""
        large = is_large(path, content[:512], len(content))
        return self.large_blob(self.add(content)) if large else self.regular_blob(content)

    def regular_blob(self, content: bytes) -> Blob:
        return Blob(self.add(content), len(content), False, git_id(content))

    def large_blob(self, sha256: str) -> Blob:
        """A large file that is stored already."""
        size = self.path(sha256).stat().st_size
        return Blob(sha256, size, True, git_id(pointer(sha256, size)))

    def sha256_of(self, path: Path) -> str:
        found = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(2**20):
                found.update(block)
        return found.hexdigest()

    def read(self, blob: Blob) -> bytes:
        return self.path(blob.sha256).read_bytes()


@dataclass(frozen=True)
class Commit:
    """The files after a commit, and the commit before it."""

    oid: str
    files: Mapping[str, Blob]
    title: str
    message: str
    date: str
    parent: str | None


@dataclass
class Repository:
    """A model repository. References are `main` and other branches, tags, and `refs/pr/N`."""

    name: str
    private: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    pull_requests: dict[str, str] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock, repr=False)

    def find(self, revision: str) -> Commit | None:
        """The commit of a branch, a tag, a pull request or a commit id."""
        for references in (self.branches, self.tags, self.pull_requests):
            if revision in references:
                return self.commits[references[revision]]
        return self.commits.get(revision)

    def add_commit(self, branch: str, files: Mapping[str, Blob], title: str, message: str = "") -> Commit:
        """Put a commit on a branch or a pull request."""
        references = self.pull_requests if branch.startswith("refs/pr/") else self.branches
        parent = references.get(branch)
        entries = [[path, blob.oid] for path, blob in sorted(files.items())]
        identity = json.dumps([self.name, parent, len(self.commits), title, entries])
        oid = hashlib.sha1(identity.encode()).hexdigest()
        date = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        self.commits[oid] = Commit(oid, dict(sorted(files.items())), title, message, date, parent)
        references[branch] = oid
        return self.commits[oid]

    def history(self, commit: Commit) -> Iterator[Commit]:
        """A commit and all before it, newest first."""
        current: Commit | None = commit
        while current is not None:
            yield current
            current = self.commits.get(current.parent) if current.parent else None

    def open_pull_request(self, base: str) -> str:
        """Start a pull request at a branch and return its reference."""
        reference = f"refs/pr/{len(self.pull_requests) + 1}"
        self.pull_requests[reference] = self.branches[base]
        return reference


def tree_entries(commit: Commit, folder: str, recursive: bool) -> list[dict[str, object]]:
    """The entries of a folder as the Hub lists them: files, and folders before what is in them."""
    prefix = f"{folder}/" if folder else ""
    entries: list[dict[str, object]] = []
    seen: set[str] = set()
    for path, blob in commit.files.items():
        if not path.startswith(prefix):
            continue
        inside = path[len(prefix) :].split("/")
        depth = len(inside) if recursive else 1
        for parent in (prefix + "/".join(inside[:level]) for level in range(1, depth + (len(inside) > depth))):
            if parent != path and parent not in seen:
                seen.add(parent)
                entries.append({"type": "directory", "path": parent, "oid": git_id(parent.encode()), "size": 0})
        if len(inside) <= depth:
            entries.append({"type": "file", "path": path, **file_entry(blob)})
    return entries


def file_entry(blob: Blob) -> dict[str, object]:
    """What the Hub says about a file in a tree."""
    entry: dict[str, object] = {"oid": blob.oid, "size": blob.size}
    if blob.large:
        entry["lfs"] = {"oid": blob.sha256, "size": blob.size, "pointerSize": len(pointer(blob.sha256, blob.size))}
    return entry


def files_of_folder(folder: Path) -> dict[str, bytes]:
    """All files under a folder by their path in a repository."""
    paths: Iterable[Path] = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
