"""The embedded model in all formats, exported once."""

from collections.abc import Callable
from pathlib import Path

import pytest

from modeling_lavis.embedded import embedded_model_path
from modeling_lavis.export import export_model


@pytest.fixture(scope="session")
def exported_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Function that returns the folder of the embedded model in a format. Each is exported once."""
    made: dict[str, Path] = {}

    def make(format_name: str) -> Path:
        if format_name not in made:
            folder = tmp_path_factory.mktemp("exported") / format_name
            made[format_name] = export_model(embedded_model_path(), folder, format_name)
        return made[format_name]

    return make
