"""What the page about ALPRO needs: tiny models, clips and checkpoints; and what its examples have to give."""

import json
from pathlib import Path
from typing import Any

from tests.documentation.materials import TOKENIZER, changed, place, with_sizes

CAPTIONS = ["a dog", "the man in a red house", "a ball"]
QUESTIONS = {"run": "what is it doing?", "sleep": "what does the dog do?", "fly": "what now?"}


def prepare(folder: Path) -> dict[str, Any]:
    from tests.models.video_clips import write_clip
    from tests.pipelines.tiny_video_models import save_video_model

    heads = {"asker": "ForVideoQuestionAnswering", "matcher": "ForVideoTextRetrieval"}
    names: dict[str, Any] = {
        name: str(save_video_model(folder / name, head, TOKENIZER)) for name, head in heads.items()
    }
    names["films"] = [str(write_clip(folder / name, frames=12)) for name in ("one.mp4", "two.mkv", "three.mp4")]
    names["captions"] = CAPTIONS
    names["rows"] = [
        {"video": film, "question": question, "answer": answer}
        for film in names["films"]
        for answer, question in QUESTIONS.items()
    ]
    place(
        {
            "alpro_msrvtt_retrieval.pt": "alpro_retrieval/checkpoint.pth",
            "alpro_msvd_qa.pth": "alpro_qa/checkpoint.pth",
            "alpro_pretrain.pt": "transfer/alpro_pretrain.pth",
        }
    )
    # beside the labels, what full-size files need not be told
    sizes = {"vision": {"num_heads": 4, "num_frames": 4}, "text": {"num_attention_heads": 4, "fusion_layer": 2}}
    Path("answers.json").write_text(json.dumps(sizes | {"labels": ["run", "jump", "sleep", "eat", "sing"]}))
    return names


def commands(words: list[str]) -> list[str]:
    return with_sizes(words, {"alpro_msrvtt_retrieval.pt": "alpro_retrieval/config.json"})


def check_conversions(names: dict[str, Any]) -> None:
    from modeling_lavis import AlproForVideoQuestionAnswering, AlproForVideoTextRetrieval

    AlproForVideoTextRetrieval.from_pretrained("alpro-msrvtt")
    for folder in ("alpro-msvd", "alpro-mine"):
        assert AlproForVideoQuestionAnswering.from_pretrained(folder).config.id2label[1] == "jump"


def check_searching(names: dict[str, Any]) -> None:
    from tests.pipelines.tiny_video_models import ANSWERS

    assert len(names["best"]) == 1 and names["best"][0]["answer"] in ANSWERS.values()
    assert len(names["found"]) == 2 and {row["video"] for row in names["found"]} < set(names["films"])


def check_frames(names: dict[str, Any]) -> None:
    assert names["inputs"]["pixel_values_videos"].shape == (3, 5, 3, 48, 48)
    assert names["output"].logits.shape == (3, 2) and names["output"].logits_per_video.shape == (3, 3)
    assert [position for position, _ in names["inputs"].skipped] == [3]


def check_fine_tuning(names: dict[str, Any]) -> None:
    from modeling_lavis import AlproForVideoQuestionAnswering

    before = AlproForVideoQuestionAnswering.from_pretrained(names["asker"])
    after = AlproForVideoQuestionAnswering.from_pretrained("alpro-mine-tuned")
    weights = {"classifier.2.weight", "vision_model.time_embed", "text_encoder.embeddings.word_embeddings.weight"}
    assert weights <= changed(before, after)
    assert names["trainer"].state.global_step == 10
    assert names["collator"](names["rows"][:3])["labels"].tolist() == [0, 2, -100]


CHECKS = {
    "From a checkpoint to a repository": check_conversions,
    "Ask and search": check_searching,
    "Frames": check_frames,
    "Fine-tuning": check_fine_tuning,
}
