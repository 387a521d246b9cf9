# SPDX-License-Identifier: Apache-2.0
"""Import of optional dependencies, with an error that names the extra to install if one is missing."""

import contextlib
import gc
import importlib
import importlib.util
import logging
import sys
from collections.abc import Iterator
from types import ModuleType

_INSTALL_ALL = 'pip install "modeling-lavis[all]"'


def is_available(module: str) -> bool:
    """
    Return whether a module is installed, without importing it.

    Args:
        module (`str`): dotted name of the module, for example `"timm"`.
    """
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # raised if the parent package of a dotted name is missing
        return False


def require(module: str, *, extra: str, purpose: str | None = None) -> ModuleType:
    """
    Import and return an optional module.

    Args:
        module (`str`): dotted name of the module, for example `"timm"` or `"timm.data.auto_augment"`.
        extra (`str`): extra of this distribution that installs the module, for example `"train"`.
        purpose (`str`, *optional*): what needs the module; completes the sentence "It is needed for ...".

    Raises:
        ImportError: If the module is not installed. The message names the extra to install. If an installed module
            fails to import, its own error is raised.
    """
    top = module.partition(".")[0]
    if not is_available(top):
        what_for = f" It is needed for {purpose}." if purpose else ""
        raise ImportError(
            f"The optional package {top!r} is not installed.{what_for} "
            f'Install it with: pip install "modeling-lavis[{extra}]" (or everything with: {_INSTALL_ALL}).',
            name=top,
        )
    return importlib.import_module(module)


@contextlib.contextmanager
def without_collections() -> Iterator[None]:
    """
    Context manager in which a command imports torch and transformers without garbage collections.

    These imports create about a million objects that live as long as the process. Collections would traverse all of
    them several times while they are created, and again at exit; here there are none, and what was created in the block
    is exempt from later ones. Without effect if torch is imported already: other objects are then the caller's, and may
    become garbage. For commands only.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def silence_developer_logs() -> None:
    """
    Silence what torch and torchao log about each other's deprecations when both are installed.

    For commands only: a library leaves the loggers of other libraries alone.
    """
    # Loggers of their own, not parents: importing torch sets the levels of its top-level loggers.
    for name in ("torch.utils._pytree", "torchao"):
        logging.getLogger(name).setLevel(logging.ERROR)
