# SPDX-License-Identifier: Apache-2.0
"""Download of published checkpoints, cached as huggingface_hub caches files.

Each folder of a site has a folder below `HF_HOME/assets/modeling-lavis/checkpoints` (huggingface_hub's place for files
that do not come from the Hub), with its layout: `blobs/<etag>` has the content, `blobs/<etag>.incomplete` what an
interrupted download has received, `snapshots/<etag>/<file name>` is a link to the content, and `refs/<file name>` names
the newest etag. One process at a time downloads a file; the others wait for its lock.
"""

import base64
import contextlib
import hashlib
import http.client
import json
import logging
import os
import re
import shutil
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import cached_assets_path, constants
from huggingface_hub.utils import WeakFileLock

from modeling_lavis.files import whole_file
from modeling_lavis.progress import Progress

LIBRARY = "modeling-lavis"
_BLOCK = 1 << 20
#: connections in a row that fail or give less than a block, before a download gives up
_ATTEMPTS = 5
#: seconds before the second connection; doubled for each further one
_PAUSE = 1.0
_logger = logging.getLogger(__name__)
_FAILURES = (urllib.error.URLError, TimeoutError, ConnectionError, ssl.SSLError, http.client.HTTPException)
#: where the published checkpoints are; LAVIS keeps its downloads from there by the names of the files alone
_SITES_OF_LAVIS = (
    "https://storage.googleapis.com/sfr-vision-language-research/",
    "https://storage.googleapis.com/sfr-pcl-data-research/",
)


@dataclass(frozen=True)
class Download:
    """
    A file of a URL that is on this machine.

    Args:
        path (`Path`): the file.
        url (`str`): where it is from.
        size (`int`): its size in bytes.
        sha256 (`str`): SHA-256 of its content, in hexadecimal digits.
    """

    path: Path
    url: str
    size: int
    sha256: str

    def as_dict(self) -> dict[str, Any]:
        """Return `url`, `size` and `sha256`, by which anybody can check the file."""
        return {"url": self.url, "size": self.size, "sha256": self.sha256}


def is_url(source: str) -> bool:
    """Return whether `source` is an `http`, `https` or `file` URL."""
    return urllib.parse.urlsplit(source).scheme in ("http", "https", "file")


def file_of_url(url: str) -> Path | None:
    """
    Return the path that a `file` URL names, `None` for other URLs.

    Raises:
        ValueError: If the URL names a file of another machine.
    """
    parts = urllib.parse.urlsplit(url)
    if parts.scheme != "file":
        return None
    if parts.netloc not in ("", "localhost"):
        raise ValueError(f"{url} is a file of {parts.netloc}. Give file:///PATH, with three slashes, for a local file.")
    return Path(urllib.request.url2pathname(parts.path))


def file_name(url: str) -> str:
    """
    Return the name of the file that a URL names.

    Raises:
        ValueError: If it names none.
    """
    name = Path(urllib.parse.unquote(urllib.parse.urlsplit(url).path)).name
    if not name:
        raise ValueError(f"The URL {url} does not name a file. Give the URL of a checkpoint file.")
    return name


def in_mirror(url: str, mirror: str | Path) -> Path:
    """
    Return the copy of a URL in a mirror.

    Args:
        url (`str`): URL of a published file.
        mirror (`str` or `Path`): folder, or `file` URL of one, with the files by their names, or by host and path, as
            `wget --mirror` writes them.

    Raises:
        OSError: If the mirror does not have the file. The message names the places that were looked at.
    """
    folder = file_of_url(str(mirror)) or Path(mirror).expanduser()
    if not folder.is_dir():
        raise NotADirectoryError(f"The mirror {mirror} is not a folder. Give the folder with the downloaded files.")
    parts = urllib.parse.urlsplit(url)
    places = [folder / parts.netloc / urllib.parse.unquote(parts.path).lstrip("/"), folder / file_name(url)]
    for place in places:
        if place.is_file():
            return place
    raise FileNotFoundError(
        f"The mirror {mirror} has no {file_name(url)}: neither {places[0]} nor {places[1]} exists. Download {url} to "
        "one of them, or leave out the mirror."
    )


def fetch(url: str) -> Path:
    """
    Return the path of the file of a URL; see [`download`]. The file of a `file` URL is not copied.

    Raises:
        OSError: See [`download`].
        ValueError: See [`download`].
    """
    return file_of_url(url) or _cached_or_downloaded(url)


def download(url: str) -> Download:
    """
    Return the file of a URL, and download it if it is not cached in its newest version.

    What an interrupted download has received is kept and continued. A published checkpoint in torch hub's folder of
    checkpoints, where LAVIS keeps its downloads, is used as it is. Without a connection, or if the server is out of
    order, the newest version in the cache is used.

    Raises:
        OSError: If there is no network, the server returns an error, the download is interrupted, the disk is full, or
            downloads are disabled by `HF_HUB_OFFLINE`, and the file is not cached.
        ValueError: If `url` does not name a file.
    """
    path = fetch(url)
    return describe(path, url)


def describe(path: Path, url: str) -> Download:
    """
    Return size and SHA-256 of a file that is from `url`.

    The hash of a file in this cache is computed once and kept beside it.

    Raises:
        OSError: If the file cannot be read.
    """
    size, kept = path.stat().st_size, _kept_facts(path)
    if kept.get("size") == size and isinstance(kept.get("sha256"), str):
        return Download(path, url, size, kept["sha256"])
    return Download(path, url, size, _hashes(path, "sha256")["sha256"])


@dataclass(frozen=True)
class _Remote:
    """What a server says about a file: its version, the tag for conditional requests, size and MD5."""

    version: str
    etag: str | None
    size: int | None
    md5: str | None


class _Cache:
    """The cached versions of one file of a URL."""

    def __init__(self, url: str) -> None:
        self.name = file_name(url)
        parts = urllib.parse.urlsplit(url)
        place = f"{parts.netloc}{os.path.dirname(parts.path)}".replace(":", "_")
        if parts.query or len(place) > 150:  # a name of a folder has at most 255 bytes
            place = f"{place[:100]}-{hashlib.sha256(url.encode()).hexdigest()[:16]}"
        self.folder = cached_assets_path(LIBRARY, "checkpoints", place, assets_dir=constants.HF_ASSETS_CACHE)
        locks = cached_assets_path(LIBRARY, ".locks", place, assets_dir=constants.HF_ASSETS_CACHE)
        self.lock = locks / f"{self.name}.lock"
        self.ref = self.folder / "refs" / self.name

    def blob(self, version: str) -> Path:
        return self.folder / "blobs" / version

    def file(self, version: str) -> Path:
        return self.folder / "snapshots" / version / self.name

    def newest(self) -> Path | None:
        """The file of the version that was newest when the server was last asked."""
        try:
            path = self.file(self.ref.read_text(encoding="utf-8").strip())
        except OSError:
            return None
        return path if path.is_file() else None

    def publish(self, version: str) -> Path:
        """Give a complete blob its name, and make its version the newest one."""
        blob, path = self.blob(version), self.file(version)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)  # a link whose content was deleted
            try:
                path.symlink_to(os.path.relpath(blob, path.parent))
            except OSError:  # a file system without links, where huggingface_hub moves the file as well
                os.replace(blob, path)
        self.ref.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(self.ref) as partial:
            partial.write_text(version, encoding="utf-8")
        return path


def _cached_or_downloaded(url: str) -> Path:
    if url.startswith(_SITES_OF_LAVIS):
        of_lavis = Path(torch.hub.get_dir()) / "checkpoints" / file_name(url)
        if of_lavis.is_file():
            return of_lavis
    cache = _Cache(url)
    if constants.HF_HUB_OFFLINE:
        found = cache.newest()
        if found is None:
            raise OSError(
                f"{url} is not in the cache ({cache.folder}), and nothing is downloaded: the Hub cannot be reached, or "
                "HF_HUB_OFFLINE is set. Download the file on another machine and give its path."
            )
        return found
    with WeakFileLock(cache.lock):
        try:
            remote = _ask(url)
        except _FAILURES as error:
            _raise_if_refused(url, error)
            reason, found = getattr(error, "reason", error), cache.newest()
            if found is None:
                raise OSError(
                    f"{url} cannot be downloaded ({reason}). Without a network, give the path of a local copy."
                ) from error
            _logger.warning("%s cannot be reached (%s); the cached file %s is used.", url, reason, found)
            return found
        if not cache.file(remote.version).exists() and not cache.blob(remote.version).exists():
            _download(url, remote, cache)
        return cache.publish(remote.version)


def _raise_if_refused(url: str, error: BaseException) -> None:
    """Raise `OSError` for an answer that will be the same the next time, and not for a server that is out of order."""
    if isinstance(error, urllib.error.HTTPError) and error.code < 500 and error.code not in (408, 429):
        raise OSError(f"{url} returned {error.code} {error.reason}. Check the URL.") from error


def _ask(url: str) -> _Remote:
    """Ask for version and size of a file, without its content."""
    request = urllib.request.Request(url, method="HEAD", headers={"Accept-Encoding": "identity"})
    try:
        with urllib.request.urlopen(request, timeout=constants.HF_HUB_ETAG_TIMEOUT) as response:
            return _remote_of(url, response.headers)
    except urllib.error.HTTPError as error:
        if error.code not in (405, 501):
            raise
    # a server that only knows GET: the connection is closed before the content is read
    with urllib.request.urlopen(url, timeout=constants.HF_HUB_ETAG_TIMEOUT) as response:
        return _remote_of(url, response.headers)


def _remote_of(url: str, headers: Any) -> _Remote:
    length, etag = headers.get("Content-Length"), headers.get("ETag")
    size = int(length) if length is not None and length.isdigit() else None
    bare = (etag or "").removeprefix("W/").strip('"')
    if re.fullmatch(r"[\w.-]{8,128}", bare) and not bare.startswith("."):
        version = bare
    else:  # no tag, or one that is not the name of a file
        known = f"{url} {bare} {headers.get('Last-Modified')} {length}"
        version = hashlib.sha256(known.encode()).hexdigest()
    # Google Cloud Storage sends `x-goog-hash: crc32c=...,md5=...`, other stores the older Content-MD5
    announced = ",".join(headers.get_all("x-goog-hash") or [])
    found = re.search(r"md5=([A-Za-z0-9+/=]+)", announced)
    md5 = found[1] if found else headers.get("Content-MD5")
    return _Remote(version, etag if etag and not etag.startswith("W/") else None, size, _hexadecimal(md5))


def _hexadecimal(md5: str | None) -> str | None:
    if md5 is None:
        return None
    with contextlib.suppress(ValueError):
        digest = base64.b64decode(md5, validate=True)
        return digest.hex() if len(digest) == 16 else None
    return None


def _download(url: str, remote: _Remote, cache: _Cache) -> None:
    """Download the blob of a version; what is there of it already is continued."""
    blob = cache.blob(remote.version)
    blob.parent.mkdir(parents=True, exist_ok=True)
    partial = blob.with_name(f"{blob.name}.incomplete")
    received = partial.stat().st_size if partial.exists() else 0
    if remote.size is not None and received > remote.size:
        partial.unlink()
        received = 0
    free = shutil.disk_usage(blob.parent).free
    if remote.size is not None and remote.size - received > free:
        raise OSError(
            f"{url} needs {remote.size - received:,} bytes, but {blob.parent} has only {free:,} left. Free disk space, "
            "or set HF_HOME to a larger disk."
        )
    with Progress(remote.size, cache.name, "B", received) as bar:
        _receive(url, remote, partial, bar)
    hashes = _hashes(partial, "sha256", "md5")
    if remote.md5 is not None and hashes["md5"] != remote.md5:
        partial.unlink()
        raise OSError(
            f"The download of {url} is damaged: its MD5 is {hashes['md5']}, but the server announced {remote.md5}. It "
            "was deleted. Try again."
        )
    facts = {"url": url, "size": partial.stat().st_size, "sha256": hashes["sha256"]}
    with whole_file(_facts_file(blob)) as file:
        file.write_text(json.dumps(facts), encoding="utf-8")
    os.replace(partial, blob)


def _receive(url: str, remote: _Remote, partial: Path, bar: Any) -> None:
    """Receive the rest of a file, over as many connections as it takes."""
    failures, reason = 0, ""
    while True:
        start = partial.stat().st_size if partial.exists() else 0
        if start == remote.size and partial.exists():
            return
        try:
            ended = _append(url, remote, partial, start, bar)
            reason = "the connection was closed"
        except _FAILURES as error:
            _raise_if_refused(url, error)
            ended, reason = False, str(getattr(error, "reason", error)) or type(error).__name__
        except OSError as error:
            if error.errno is None:
                raise
            raise OSError(
                f"The download of {url} cannot be written to {partial.parent}: {error.strerror}. What was received is "
                "kept: make room and try again to continue."
            ) from error
        now = partial.stat().st_size if partial.exists() else 0
        if now == remote.size or (ended and remote.size is None):
            return
        failures = failures + 1 if now - start < _BLOCK else 1
        if failures >= _ATTEMPTS:
            expected = "an unknown number of" if remote.size is None else f"{remote.size:,}"
            raise OSError(
                f"The download of {url} was interrupted after {now:,} of {expected} bytes ({reason}). What was "
                "received is kept: try again to continue, or download the file by other means and give its path."
            )
        time.sleep(_PAUSE * 2 ** (failures - 1))


def _append(url: str, remote: _Remote, partial: Path, start: int, bar: Any) -> bool:
    """Append the content from byte `start` on to a file, and return whether the server ended it properly."""
    headers = {"Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if remote.etag:
            headers["If-Range"] = remote.etag
    request = urllib.request.Request(url, headers=headers)
    try:
        response = urllib.request.urlopen(request, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not start:
            raise
        partial.unlink()  # the server has less than was received: another file
        return False
    with response:
        if remote.etag and response.headers.get("ETag") not in (None, remote.etag):
            raise OSError(f"{url} was replaced by another version during its download. Try again.")
        continues = response.status == 206 and _starts_at(response.headers.get("Content-Range"), start)
        if start and not continues:  # the server sends the whole file
            bar.update(-start)
        with partial.open("ab" if continues else "wb") as file:
            while block := response.read(_BLOCK):
                file.write(block)
                bar.update(len(block))
    return True


def _starts_at(content_range: str | None, start: int) -> bool:
    return bool(re.match(rf"bytes {start}-", content_range or ""))


def _facts_file(blob: Path) -> Path:
    return blob.with_name(f"{blob.name}.json")


def _kept_facts(path: Path) -> dict[str, Any]:
    """What is kept beside a blob of this cache; empty for other files."""
    blob = path.resolve()
    if blob.parent.name != "blobs":
        return {}
    try:
        kept = json.loads(_facts_file(blob).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}


def _hashes(path: Path, *names: str) -> dict[str, str]:
    found = {name: hashlib.new(name, usedforsecurity=False) for name in names}
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            for digest in found.values():
                digest.update(block)
    return {name: digest.hexdigest() for name, digest in found.items()}
