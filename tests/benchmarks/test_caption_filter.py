"""`python -m benchmarks.caption_filter` on a few images."""

import json
import shutil
from pathlib import Path

import pytest

from benchmarks.caption_filter import main, table, wrong_captions
from modeling_lavis.embedded import embedded_images


def test_wrong_captions() -> None:
    captions = ["a red car", "a red big old car", "a blue car", "two dogs", "two dogs"]
    found = wrong_captions(captions)
    assert [similar for _, similar in found][:3] == ["a red big old car", "a red car", "a red car"]
    assert all(caption not in (*others, similar) for caption, (others, similar) in zip(captions, found, strict=True))
    assert wrong_captions(captions) == found
    with pytest.raises(ValueError, match="all of one text"):
        wrong_captions(["a", "a"])


def test_precision_and_recall() -> None:
    def scored(*values: float) -> dict[str, list[float]]:
        return {"score": list(values), "similarity": list(values)}

    own, similar = scored(0.95, 0.6, 0.2, 0.0), scored(0.6, 0.55, 0.2, 0.0)
    rows = table({"own": own, "random": scored(0.0, 0.3, 0.0, 0.6, 0.0, 0.0, 0.0, 0.0), "similar": similar})
    half = next(row for row in rows if row["kept"] == "probability at least 0.5")
    assert half["recall"] == 0.5 and half["precision, random"] == 0.8 and half["precision, similar"] == 0.5


@pytest.mark.slow
def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("datasets")
    rows = []
    for number, image in enumerate(embedded_images()):
        shutil.copy(image.path, tmp_path / f"{number}.png")
        rows.append({"image": f"{number}.png", "caption": image.caption})
    (tmp_path / "val.json").write_text(json.dumps(rows))
    assert main([str(tmp_path), "--split", "val", "--json", str(tmp_path / "table.json")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "12 images" and lines[2] == "| kept | recall | precision, random | precision, similar |"
    found = {row["kept"]: row for row in json.loads((tmp_path / "table.json").read_text())["table"]}
    assert found["probability at least 0.5"]["recall"] >= 0.75
    assert found["probability at least 0.5"]["precision, random"] >= 0.9
