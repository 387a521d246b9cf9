"""Models that fail and kill their processes, and data that kill their readers; workers import this module."""

import contextlib
import os
import signal
from pathlib import Path
from typing import Any


class Kills:
    """Kills the process that calls it for certain rows, which are not the first ones, some times."""

    def __init__(self, folder: Path, times: int) -> None:
        self.folder, self.times = folder, times

    def __call__(self, rows: list[Any]) -> None:
        if any(row["value"] > 200 for row in rows):
            for number in range(self.times):
                with contextlib.suppress(FileExistsError):
                    (self.folder / f"died {number}").open("x").close()
                    os.kill(os.getpid(), signal.SIGKILL)


class FailsFor:
    """A model that fails for rows with certain values."""

    def __init__(self, least: int, most: int) -> None:
        self.least, self.most = least, most

    def __call__(self, rows: list[Any]) -> None:
        if any(self.least <= row["value"] <= self.most for row in rows):
            raise RuntimeError("the model cannot do this")


class Rows(list):
    """A list of rows; the process that reads the tenth is killed the first time, if it is not the one given."""

    def __init__(self, rows: list[Any], mark: Path, own: int) -> None:
        super().__init__(rows)
        self.mark, self.own = mark, own

    def __reduce__(self) -> Any:
        return Rows, (list(self), self.mark, self.own)

    def __getitem__(self, index: Any) -> Any:
        if index == 10 and os.getpid() != self.own and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)
