# SPDX-License-Identifier: Apache-2.0
"""Paths that a visitor of the page may name: only those inside folders that the command was given."""

import os
from collections.abc import Iterable
from pathlib import Path


class AllowedFolders:
    """
    The folders that the page may read and write.

    A path is compared after its links were followed, so that a link inside a folder does not lead out of it.

    Args:
        folders (`Iterable[str | os.PathLike]`): the folders.

    Raises:
        NotADirectoryError: one of them is not a folder.
    """

    def __init__(self, folders: Iterable[str | os.PathLike[str]] = ()) -> None:
        self.folders: list[Path] = []
        for folder in folders:
            path = Path(folder).expanduser()
            if not path.is_dir():
                raise NotADirectoryError(f"{folder} is not a folder. Give one that exists.")
            self.folders.append(path.resolve())

    def __bool__(self) -> bool:
        return bool(self.folders)

    def contains(self, path: str | os.PathLike[str]) -> bool:
        """Whether a path leads into one of the folders; it need not exist."""
        try:
            resolved = Path(path).resolve()
        except (OSError, ValueError, RuntimeError):  # a name that is too long, a null character, a loop of links
            return False
        return any(resolved.is_relative_to(folder) for folder in self.folders)

    def check(self, text: str | None, what: str) -> Path:
        """
        The path that a visitor names, which need not exist.

        Args:
            text (`str`, *optional*): what was typed. A relative path is one of the folder that the command runs in.
            what (`str`): what it should be, for the messages.

        Raises:
            ValueError: nothing was typed. PermissionError: it is outside of the folders. Whether there is something at
                such a path is not said.
        """
        if not text or not text.strip():
            raise ValueError(f"There is no {what}. Type its path.")
        if not self.contains(text.strip()):
            allowed = ", ".join(map(str, self.folders)) or "none"
            raise PermissionError(
                f"The {what} {text.strip()} is outside of the folders that this page may use ({allowed}). Start it "
                "with --allow FOLDER."
            )
        return Path(text.strip()).resolve()

    def folder(self, text: str | None, what: str = "folder") -> Path:
        """A folder that exists; raises as `check`, and `NotADirectoryError`."""
        path = self.check(text, what)
        if not path.is_dir():
            raise NotADirectoryError(f"The {what} {path} does not exist, or is not a folder.")
        return path

    def file(self, text: str | None, what: str = "file") -> Path:
        """A file that exists; raises as `check`, and `FileNotFoundError`."""
        path = self.check(text, what)
        if not path.is_file():
            raise FileNotFoundError(f"The {what} {path} does not exist, or is not a file.")
        return path


__all__ = ["AllowedFolders"]
