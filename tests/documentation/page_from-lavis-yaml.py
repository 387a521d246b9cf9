"""What the page about LAVIS's YAML needs: photographs, and a small model to start from."""

from pathlib import Path
from typing import Any


def prepare(folder: Path) -> dict[str, Any]:
    from modeling_lavis.embedded import embedded_model_path
    from tests.documentation.materials import photos

    return {"photos": list(photos().values()), "start": embedded_model_path()}
