# SPDX-License-Identifier: Apache-2.0
"""Fetching the originals' published files into the cache that LAVIS itself used, whole or not at all."""

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
    """Tell whether `source` is an `http` or `https` address (a path never is)."""
    return urllib.parse.urlsplit(source).scheme in ("http", "https")


def cached_path(url: str) -> Path:
    """Where the file of `url` is kept: torch hub's folder of checkpoints, under the last part of the address.

    LAVIS keeps its downloads there too, so what it has fetched is not fetched again.
    """
    name = Path(urllib.parse.unquote(urllib.parse.urlsplit(url).path)).name
    if not name:
        raise ValueError(f"The address {url} names no file; give the address of a checkpoint file.")
    return Path(torch.hub.get_dir()) / "checkpoints" / name


def fetch(url: str) -> Path:
    """Return the cached file of `url`, after downloading it when it is not there yet.

    Raises:
        OSError: there is no network, the server refuses, the transfer breaks off, or downloads are switched off by
            `HF_HUB_OFFLINE`. A partial file never stays.
    """
    path = cached_path(url)
    if path.exists():
        return path
    if constants.HF_HUB_OFFLINE:
        raise OSError(
            f"{url} is not in the cache ({path}) and downloads are switched off (HF_HUB_OFFLINE). Fetch the file on "
            "another machine and give its path."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            received, expected = _transfer(url, path.name, file)
        if expected is not None and received != expected:
            raise OSError(
                f"The download of {url} broke off after {received:,} of {expected:,} bytes. Try again, or fetch the "
                "file by other means and give its path."
            )
        os.replace(partial, path)
    finally:
        Path(partial).unlink(missing_ok=True)
    return path


def _transfer(url: str, name: str, file) -> tuple[int, int | None]:  # type: ignore[no-untyped-def]
    """Copy the body of `url` into `file`; returns bytes received and bytes announced."""
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
        raise OSError(f"{url} answered {error.code} {error.reason}. Check the address.") from error
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        raise OSError(
            f"{url} could not be fetched ({reason}). Without a network, fetch the file elsewhere and give its path."
        ) from error
    return received, expected
