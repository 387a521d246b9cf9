"""What the page about ALBEF needs, and what fine-tuning has to change."""

from pathlib import Path
from typing import Any

from tests.documentation.materials import caption_rows, changed, convert_recorded, place, with_sizes

CONFIGURATIONS = {
    "albef_coco_retrieval_lavis.pt": "albef_retrieval/config.json",
    "ALBEF.pth": "transfer/albef_pretrain.config.json",
}


def prepare(folder: Path) -> dict[str, Any]:
    from modeling_lavis import AlbefModel

    place(
        {
            "albef_coco_retrieval_lavis.pt": "albef_retrieval/checkpoint.pth",
            "ALBEF.pth": "transfer/albef_pretrain.pth",
        }
    )
    base = convert_recorded("albef_feature_extractor", folder / "albef-base")
    # the authors' file has token type embeddings, LAVIS's recordings have none
    model = AlbefModel.from_pretrained(base, use_token_type_embeddings=True, allow_new_weights=True)
    model.save_pretrained(base)
    return {"repository": convert_recorded("albef_retrieval", folder / "model"), "rows": caption_rows()}


def commands(words: list[str]) -> list[str]:
    return with_sizes(words, CONFIGURATIONS)


def check_conversions(names: dict[str, Any]) -> None:
    from modeling_lavis import AlbefForImageTextRetrieval, AlbefForQuestionAnswering

    AlbefForImageTextRetrieval.from_pretrained("albef-coco")
    AlbefForQuestionAnswering.from_pretrained("albef-for-vqa")


def check_token_types(names: dict[str, Any]) -> None:
    assert names["model"].config.text_config.implicit_token_type


def check_fine_tuning(names: dict[str, Any]) -> None:
    from modeling_lavis import AlbefForImageTextRetrieval

    before = AlbefForImageTextRetrieval.from_pretrained(names["repository"])
    after = AlbefForImageTextRetrieval.from_pretrained("albef-mine")
    assert {"image_queue", "idx_queue", "itm_head.weight", "vision_proj_m.weight"} <= changed(before, after)
    state = names["trainer"].state
    assert state.global_step == 4 and state.log_history
    assert after.distill_alpha is None


CHECKS = {
    "From a checkpoint to a repository": check_conversions,
    "LAVIS's numbers or those of the authors": check_token_types,
    "Fine-tuning": check_fine_tuning,
}
