"""What the page about data needs: folders and shards in the forms that it describes."""

from pathlib import Path
from typing import Any

from tests.data.data_files import encoded, picture, write_json, write_json_lines, write_shard
from tests.data.test_annotations import vqa_files

CAPTIONS = ["a dog in a house", "a man in a red house", "a ball", "a dog and a man"]


def prepare(folder: Path) -> dict[str, Any]:
    rows = []
    for index, caption in enumerate(CAPTIONS):
        (folder / "birds" / "train").mkdir(parents=True, exist_ok=True)
        picture("red").save(folder / "birds" / "train" / f"{index}.jpg")
        rows.append({"file_name": f"{index}.jpg", "caption": caption})
    write_json_lines(folder / "birds" / "train" / "metadata.jsonl", rows)
    question = {"image": "0.jpg", "question": "what is it?", "answer": ["dog", "dog", "ball"], "question_id": 1}
    write_json(folder / "birds" / "questions" / "train.json", [question])
    (folder / "shards").mkdir()
    for number, caption in enumerate(("a dog", "a man")):
        write_shard(
            folder / "shards" / f"{number}.tar", {f"{number}": {"png": encoded("blue"), "txt": caption.encode()}}
        )
    (folder / "vqa").mkdir()
    vqa_files("v2_", "val", "val2014", 42)(folder / "vqa")
    questions = folder / "vqa" / "v2_OpenEnded_mscoco_val2014_questions.json"
    questions.write_text(questions.read_text().replace("What color?", "What color is it?"))
    (folder / "spoiled").mkdir()
    picture("grey").save(folder / "spoiled" / "good.png")
    (folder / "spoiled" / "broken.png").write_bytes(b"broken")
    names = ["good.png", "broken.png", "good.png", "none.png"]
    captions = ["a ball", "a dog", " ", "a man"]
    write_json(
        folder / "spoiled" / "train.json",
        [{"image": name, "caption": caption} for name, caption in zip(names, captions)],
    )
    return {}
