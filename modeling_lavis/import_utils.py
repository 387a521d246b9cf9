# SPDX-License-Identifier: Apache-2.0
"""Optional dependencies: the one place that imports them, and that says what to install when one is missing."""

import importlib
import importlib.util
from types import ModuleType

_INSTALL_ALL = 'pip install "modeling-lavis[all]"'


def is_available(module: str) -> bool:
    """Tell whether `module` (dotted name, for example `"timm"`) could be imported, without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # a parent package of a dotted name is missing
        return False


def require(module: str, *, extra: str, purpose: str | None = None) -> ModuleType:
    """Import and return an optional module.

    Args:
        module (`str`): dotted name of the module, for example `"timm"` or `"timm.data.auto_augment"`.
        extra (`str`): extra of this distribution that brings the module, for example `"train"`.
        purpose (`str`, *optional*): what the module is needed for, in words that follow "is needed for".

    Raises:
        ImportError: the module is not installed; names the extra to install. An installed module that fails while
            it is being imported raises its own error, so that the real cause is seen.
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
