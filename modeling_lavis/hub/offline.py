# SPDX-License-Identifier: Apache-2.0
"""Commands without a connection to the Hub.

huggingface_hub retries every file for half a minute. A command asks the Hub once; if there is no answer, it works with
the cache only, as with `HF_HUB_OFFLINE`.
"""

import contextlib
import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

from huggingface_hub import constants
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import get_session

from modeling_lavis.hub.json_files import read_object
from modeling_lavis.model_card import is_repo_id

#: seconds to wait for any answer of the Hub
TIMEOUT = 5.0


@contextlib.contextmanager
def repository_access(names: Iterable[str | None], check: bool = True) -> Iterator[None]:
    """
    Context manager in which repositories are read. If the Hub cannot be reached, only its cache is used inside.

    Args:
        names (`Iterable[str]`): folders and Hub ids that will be read; only ids need the Hub.
        check (`bool`, *optional*, defaults to `True`): whether to report repositories that cannot be read.

    Raises:
        OSError: If a repository is not in the cache, and the Hub cannot be reached or `HF_HUB_OFFLINE` is set.
    """
    ids = [name for name in names if name and not os.path.exists(name) and is_repo_id(name)]
    if not ids:
        yield
        return
    was_offline = constants.HF_HUB_OFFLINE
    reason = None if was_offline else unreachable_reason()
    if check and (was_offline or reason is not None):
        for name in ids:
            _check_cached(name, reason)
    try:
        constants.HF_HUB_OFFLINE = was_offline or reason is not None
        yield
    finally:
        constants.HF_HUB_OFFLINE = was_offline


def unreachable_reason() -> str | None:
    """Why the Hub cannot be reached, or `None` if it answers within [`TIMEOUT`] seconds, whatever it says."""
    found: list[str | None] = []

    def ask() -> None:
        try:
            get_session().head(constants.ENDPOINT, timeout=TIMEOUT, follow_redirects=False)
            found.append(None)
        except Exception as error:  # the errors of HTTP clients have no common base across versions
            found.append(str(error) or type(error).__name__)

    # the timeout of the client does not cover the lookup of the name
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(TIMEOUT + 1)
    return found[0] if found else f"no answer within {TIMEOUT:.0f} seconds"


def parts_elsewhere(folder: str) -> list[str]:
    """Folders and Hub ids that the `config.json` of a local model refers to for its frozen parts."""
    from modeling_lavis.models.configuration_base import FrozenPart

    try:
        parts = read_object(Path(folder) / "config.json").get("frozen_parts") or {}
        return [FrozenPart.read(name, place).source for name, place in parts.items()]
    except (OSError, ValueError, AttributeError):  # reported when the model is loaded
        return []


def _check_cached(name: str, reason: str | None) -> None:
    cache = Path(constants.HF_HUB_CACHE)
    if (cache / repo_folder_name(repo_id=name, repo_type="model")).is_dir():
        return
    if reason is None:
        cause = "HF_HUB_OFFLINE forbids downloads. Unset it"
    else:
        cause = f"{constants.ENDPOINT} cannot be reached ({reason}). Check the name and the connection"
    raise OSError(
        f"The model {name} is neither a folder nor in the cache of the Hub ({cache}), and {cause}, or download it on"
        " another machine and give its folder."
    )
