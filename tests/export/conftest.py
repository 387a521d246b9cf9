"""The embedded model in all formats, exported once, by the command."""

from collections.abc import Callable
from pathlib import Path

import pytest

from modeling_lavis.cli.main import main
from modeling_lavis.embedded import embedded_model_path


@pytest.fixture(scope="session")
def exported_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Function that returns the folder of the embedded model in a format. Each is exported once."""
    made: dict[str, Path] = {}

    def make(format_name: str) -> Path:
        if format_name not in made:
            folder = tmp_path_factory.mktemp("exported") / format_name
            options = ["--format", format_name, "--output", str(folder)]
            assert main(["export", embedded_model_path(), *options]) == 0
            made[format_name] = folder
        return made[format_name]

    return make
