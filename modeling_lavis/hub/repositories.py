# SPDX-License-Identifier: Apache-2.0
"""Where the converted repository of a published checkpoint is: in a folder, at an organization on the Hub, or here.

A repository that is made here is kept below `HF_HOME/assets/modeling-lavis/repositories`, by the version of this
package, and made again by another version.
"""

import hashlib
import os
from pathlib import Path

from huggingface_hub import cached_assets_path, constants
from huggingface_hub.utils import WeakFileLock

import modeling_lavis
from modeling_lavis.hub import downloads
from modeling_lavis.hub.zoo import ZooEntry
from modeling_lavis.hub.zoo_conversion import convert_entry

#: folder of converted repositories, or organization on the Hub, for calls that do not give one
VARIABLE = "MODELING_LAVIS_REPOSITORIES"


def repository_of(
    entry: ZooEntry,
    checkpoint: str | os.PathLike[str] | None = None,
    repositories: str | os.PathLike[str] | None = None,
) -> str:
    """
    Return the repository of a published checkpoint, and make it if there is no other place where it is.

    Args:
        entry ([`~modeling_lavis.hub.zoo.ZooEntry`]): the published checkpoint.
        checkpoint (`str` or `os.PathLike`, *optional*): other weights of this architecture and model type: a folder or
            Hub id in the format of this package, which is returned as it is, or a checkpoint of LAVIS, a file or URL,
            which is converted once and kept.
        repositories (`str` or `os.PathLike`, *optional*): where converted repositories are, under the names
            `entry.repository`: a folder, or the name of a user or organization on the Hub. Defaults to the environment
            variable `MODELING_LAVIS_REPOSITORIES`; if it is not set, the published checkpoint is downloaded, converted
            and kept on first use.

    Returns:
        `str`: a folder, or the id of a repository on the Hub.

    Raises:
        OSError: If the folder does not have the repository, or the checkpoint cannot be downloaded or converted.
        ValueError: If the checkpoint is not one of this architecture.
    """
    if checkpoint is not None:
        return _own(entry, os.fspath(checkpoint))
    place = os.environ.get(VARIABLE) if repositories is None else os.fspath(repositories)
    if not place:
        return str(_converted(entry, entry.repository, None))
    folder = Path(place).expanduser()
    if folder.is_dir():
        if not (folder / entry.repository / "config.json").is_file():
            raise FileNotFoundError(
                f"{folder} has no repository {entry.repository}. Make it with: modeling-lavis convert --zoo "
                f"{entry.architecture}/{entry.model_type} {folder / entry.repository}"
            )
        return str(folder / entry.repository)
    if "/" in place or os.sep in place or place.startswith((".", "~")):
        raise NotADirectoryError(
            f"{place} is neither a folder of converted repositories nor the name of an organization on the Hub. Check "
            "the path."
        )
    return f"{place}/{entry.repository}"


def _own(entry: ZooEntry, checkpoint: str) -> str:
    """The repository of weights that the caller names."""
    if downloads.is_url(checkpoint):
        file = downloads.download(checkpoint)
        key = file.sha256
        return str(_converted(entry, f"{entry.repository}-{key[:16]}", file.path))
    path = Path(checkpoint).expanduser()
    if path.is_file():
        about = path.stat()
        key = hashlib.sha256(f"{path.resolve()} {about.st_size} {about.st_mtime_ns}".encode()).hexdigest()
        return str(_converted(entry, f"{entry.repository}-{key[:16]}", path))
    if path.is_dir() and not (path / "config.json").is_file():
        raise FileNotFoundError(
            f"{path} has no config.json, so it is not a repository. Give a folder that save_pretrained or "
            "modeling-lavis convert has written, a file of LAVIS, or a Hub id."
        )
    return checkpoint


def _converted(entry: ZooEntry, name: str, checkpoint: Path | None) -> Path:
    """The repository of a name in the cache, which is made on first use. Other processes wait until it is whole."""
    version, cache = modeling_lavis.__version__, constants.HF_ASSETS_CACHE
    folder = cached_assets_path(downloads.LIBRARY, "repositories", version, assets_dir=cache) / name
    locks = cached_assets_path(downloads.LIBRARY, ".locks", "repositories", assets_dir=cache)
    with WeakFileLock(locks / f"{version}-{name}.lock"):
        if not (folder / "config.json").is_file():  # folders appear as a whole
            convert_entry(entry, folder, checkpoint=checkpoint)
    return folder


__all__ = ["repository_of"]
