"""The embedded model in all formats, exported once, by the command."""

from collections.abc import Callable
from pathlib import Path

import pytest

from modeling_lavis.cli.main import main
from modeling_lavis.embedded import embedded_model_path


@pytest.fixture(scope="session")
def exported_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Function that returns the folder of the embedded model in a format. Each is exported once."""
    made: dict[tuple[str, str], Path] = {}

    def make(format_name: str, weights: str = "float32") -> Path:
        if (format_name, weights) not in made:
            folder = tmp_path_factory.mktemp("exported") / format_name
            options = ["--format", format_name, "--weights", weights, "--output", str(folder)]
            assert main(["export", embedded_model_path(), *options]) == 0
            made[format_name, weights] = folder
        return made[format_name, weights]

    return make
