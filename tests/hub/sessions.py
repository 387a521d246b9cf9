"""Processes that work with a loopback Hub, and with no other."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from tests.hub.server import LoopbackHub

ROOT = Path(__file__).resolve().parents[2]
_WITHOUT_PACKAGE = "import sys; sys.modules['modeling_lavis'] = None  # importing it raises, even if it is installed\n"


def session_environment(
    hub: LoopbackHub,
    home: Path,
    *,
    offline: bool = False,
    token: str | None = None,
    variables: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """
    The environment of a process that knows no Hub but this one.

    Args:
        hub: the Hub; with `offline` it need not run.
        home: the folder for `HF_HOME`: the cache, the code of repositories, the token.
        offline: whether `HF_HUB_OFFLINE` is set.
        token: value of `HF_TOKEN`; without it the process has none.
        variables: more variables.
    """
    left_out = ("HF_", "HUGGINGFACE_", "TRANSFORMERS_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
    environment = {name: value for name, value in os.environ.items() if not name.upper().startswith(left_out)}
    environment.update(
        HF_ENDPOINT=hub.endpoint,
        HF_HOME=str(home),
        HF_HUB_DISABLE_XET="1",
        HF_HUB_DISABLE_TELEMETRY="1",
        HF_HUB_DISABLE_PROGRESS_BARS="1",
        OMP_NUM_THREADS="1",
        PYTHONPATH=str(ROOT),
    )
    if offline:
        environment["HF_HUB_OFFLINE"] = "1"
    if token is not None:
        environment["HF_TOKEN"] = token
    return {**environment, **(variables or {})}


def run_python(
    code: str,
    hub: LoopbackHub,
    *,
    offline: bool = False,
    token: str | None = None,
    package: bool = True,
    home: Path | None = None,
    check: bool = True,
    timeout: float = 600,
    variables: Mapping[str, str] | None = None,
) -> "subprocess.CompletedProcess[str]":
    """
    Run code in a process of its own.

    Args:
        code: the Python code.
        hub: the Hub of the process.
        offline: whether `HF_HUB_OFFLINE` is set.
        token: value of `HF_TOKEN`.
        package: whether modeling_lavis can be imported.
        home: the folder for `HF_HOME`; a new one, deleted afterwards, if it is `None`.
        check: whether the code must succeed.
        timeout: seconds after which the process is ended.
        variables: more environment variables.

    Returns:
        The finished process, with its output as text.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = home if home is not None else Path(temporary) / "home"
        folder.mkdir(parents=True, exist_ok=True)
        result = subprocess.run(
            [sys.executable, "-c", code if package else _WITHOUT_PACKAGE + code],
            env=session_environment(hub, folder, offline=offline, token=token, variables=variables),
            cwd=temporary,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
    if check and result.returncode:
        raise AssertionError(f"The session ended with {result.returncode}:\n{result.stdout}\n{result.stderr[-6000:]}")
    return result


# Runs the code of every line and answers with one: whether it succeeded, and what it printed or why it failed.
_WORKER = """
import contextlib, io, json, sys, traceback
answers, names = sys.stdout, {}
sys.stdout = sys.stderr
for line in sys.stdin:
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            exec(json.loads(line), names)
        answer = [True, printed.getvalue()]
    except BaseException:
        answer = [False, traceback.format_exc()]
    print(json.dumps(answer), file=answers, flush=True)
"""


class Session:
    """
    A process that runs one piece of code after the other, so that what they share is imported once; a context manager.

    The pieces see each other's names. The Hub can change between them; what the client remembers is kept, so pieces
    that are to know nothing of each other use a `cache_dir` of their own.

    Args:
        hub: the Hub of the process.
        home: the folder for `HF_HOME`.
        token: value of `HF_TOKEN`.
        package: whether modeling_lavis can be imported.
    """

    def __init__(self, hub: LoopbackHub, home: Path, *, token: str | None = None, package: bool = True) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self._log = (home / "session.log").open("w+")
        self._process = subprocess.Popen(
            [sys.executable, "-c", _WORKER if package else _WITHOUT_PACKAGE + _WORKER],
            env=session_environment(hub, home, token=token),
            cwd=home,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def __enter__(self) -> "Session":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.communicate()
        self._log.close()

    def attempt(self, code: str) -> tuple[bool, str]:
        """Run code; whether it succeeded, and what it printed, or the traceback of its error."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(code) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            self._log.seek(0)
            raise AssertionError(f"The session has ended:\n{self._log.read()[-6000:]}")
        succeeded, said = json.loads(answer)
        return succeeded, said

    def run(self, code: str) -> str:
        """Run code that must succeed and return what it printed."""
        succeeded, said = self.attempt(code)
        assert succeeded, said
        return said


__all__ = ["Session", "run_python", "session_environment"]
