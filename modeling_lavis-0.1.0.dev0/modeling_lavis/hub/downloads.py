# SPDX-License-Identifier: Apache-2.0
"""Download of published checkpoints into the cache that LAVIS uses; an interrupted download leaves no file."""

import os
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import torch
from huggingface_hub import constants
from huggingface_hub.utils import tqdm

_BLOCK = 1 << 20


def is_url(source: str) -> bool:
    """Return whether `source` is an `http` or `https` URL."""
    return urllib.parse.urlsplit(source).scheme in ("http", "https")


def cached_path(url: str) -> Path:
    """
    Return the path of the cached file of `url`: its file name in torch hub's folder of checkpoints.

    LAVIS caches its downloads in the same place, so files that it has downloaded are not downloaded again.

    Raises:
        ValueError: If `url` does not name a file.
    """
    name = Path(urllib.parse.unquote(urllib.parse.urlsplit(url).path)).name
    if not name:
        raise ValueError(f"The URL {url} does not name a file. Give the URL of a checkpoint file.")
    return Path(torch.hub.get_dir()) / "checkpoints" / name


def fetch(url: str) -> Path:
    """
    Return the path of the cached file of `url`, and download it if it is not cached.

    Raises:
        OSError: If there is no network, the server returns an error, the download is interrupted, or downloads are
            disabled by `HF_HUB_OFFLINE`.
        ValueError: If `url` does not name a file.
    """
    path = cached_path(url)
    if path.exists():
        return path
    if constants.HF_HUB_OFFLINE:
        raise OSError(
            f"{url} is not in the cache ({path}) and downloads are disabled (HF_HUB_OFFLINE). Download the file on "
            "another machine and give its path."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            received, expected = _download(url, path.name, file)
        if expected is not None and received != expected:
            raise OSError(
                f"The download of {url} was interrupted after {received:,} of {expected:,} bytes. Try again, or "
                "download the file by other means and give its path."
            )
        os.replace(partial, path)
    finally:
        Path(partial).unlink(missing_ok=True)
    return path


def _download(url: str, name: str, file) -> tuple[int, int | None]:  # type: ignore[no-untyped-def]
    """Copy the body of `url` into `file`, and return the received and the announced number of bytes."""
    received = 0
    try:
        with urllib.request.urlopen(url, timeout=60) as response:
            announced = response.headers.get("Content-Length")
            expected = int(announced) if announced is not None else None
            with tqdm(total=expected, unit="B", unit_scale=True, desc=name) as bar:
                while block := response.read(_BLOCK):
                    file.write(block)
                    received += len(block)
                    bar.update(len(block))
    except urllib.error.HTTPError as error:
        raise OSError(f"{url} returned {error.code} {error.reason}. Check the URL.") from error
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        raise OSError(
            f"{url} cannot be downloaded ({reason}). Without a network, give the path of a local copy."
        ) from error
    return received, expected
