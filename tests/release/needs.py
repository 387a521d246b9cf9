"""Tests of features that need newer versions than the lowest that are supported."""

import importlib.metadata

import pytest
from packaging.requirements import Requirement


def needs(requirement: str, reason: str) -> pytest.MarkDecorator:
    """
    Mark of a test that is left out with older versions.

    Args:
        requirement (`str`): what it needs, such as `"torch>=2.11"`. Packages that are missing are not its business.
        reason (`str`): what older versions lack.
    """
    wanted = Requirement(requirement)
    try:
        installed = importlib.metadata.version(wanted.name)
    except importlib.metadata.PackageNotFoundError:
        return pytest.mark.skipif(False, reason=reason)
    return pytest.mark.skipif(
        not wanted.specifier.contains(installed, prereleases=True), reason=f"needs {requirement}: {reason}"
    )
