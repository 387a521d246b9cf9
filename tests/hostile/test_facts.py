"""Facts files are read without running anything; that values stay values in cards is tested beside the cards."""

from pathlib import Path

import pytest

from modeling_lavis.hub import zoo


@pytest.mark.parametrize("text", ["!!python/object/apply:os.mkdir ['{}']", "a: [", "- 1", "[" * 1000])
def test_facts_files_run_nothing(text: str, tmp_path: Path) -> None:
    marker = tmp_path / "was_run"
    (tmp_path / "facts.yaml").write_text(text.replace("{}", str(marker)))
    with pytest.raises(ValueError, match="facts.yaml"):
        zoo.read_facts(tmp_path / "facts.yaml")
    assert not marker.exists()
