"""Type checkers see the public classes, not `Any`."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import modeling_lavis

ROOT = Path(__file__).resolve().parent.parent

USER_PROGRAM = """
import modeling_lavis
from modeling_lavis import AlbefConfig, AlbefForImageTextRetrieval, LavisBlipProcessor

reveal_type(AlbefConfig)
reveal_type(modeling_lavis.LavisBlip2ForConditionalGeneration)
reveal_type(LavisBlipProcessor)
model = AlbefForImageTextRetrieval(AlbefConfig())
reveal_type(model.score_pairs)
AlbefForImageTextRetrieval(3)
modeling_lavis.AlbefFroImageTextRetrieval
"""


def test_imports_for_type_checkers_are_the_exported_names() -> None:
    tree = ast.parse(Path(modeling_lavis.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    imported = {
        alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert imported == modeling_lavis._HOME_OF
    assert {"__version__", *imported} == set(modeling_lavis.__all__)


@pytest.mark.slow
def test_a_user_program_is_checked(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(USER_PROGRAM, encoding="utf-8")
    result = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), str(program)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    lines = [line.partition("program.py:")[2] for line in result.stdout.splitlines() if "program.py:" in line]
    text = "\n".join(lines)
    assert "configuration_albef.AlbefConfig" in text
    assert "modeling_lavis_blip_2_generation.LavisBlip2ForConditionalGeneration" in text
    assert "processing_lavis_blip.LavisBlipProcessor" in text
    assert "outputs.PairScores" in text
    errors = [line for line in lines if "error:" in line]
    assert len(errors) == 2, text
    assert 'incompatible type "int"; expected "AlbefConfig"' in errors[0]
    assert 'no attribute "AlbefFroImageTextRetrieval"' in errors[1]
