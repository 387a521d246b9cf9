"""Key maps: keys of the original to keys of this package and back."""

import pytest

from modeling_lavis.hub.blip import ARCHITECTURES, FAMILY, KEY_MAP
from modeling_lavis.hub.key_maps import KeyMap, Rename, matches

ROUND_TRIPS = {
    "visual_encoder.cls_token": "vision_model.cls_token",
    "visual_encoder.patch_embed.proj.weight": "vision_model.patch_embed.proj.weight",
    "visual_encoder.blocks.11.attn.qkv.bias": "vision_model.blocks.11.attn.qkv.bias",
    "visual_encoder_m.blocks.0.mlp.fc1.weight": "vision_model_m.blocks.0.mlp.fc1.weight",
    "text_encoder.encoder.layer.3.output.dense.bias": "text_encoder.encoder.layer.3.output.dense.bias",
    "text_decoder.cls.predictions.bias": "text_decoder.cls.predictions.bias",
    "cls_head.0.weight": "cls_head.0.weight",
    "queue_ptr": "queue_ptr",
    "temp": "temp",
}


@pytest.mark.parametrize(("original", "ours"), ROUND_TRIPS.items())
def test_keys_in_both_directions(original: str, ours: str) -> None:
    assert KEY_MAP.forward(original) == (ours,)
    assert KEY_MAP.backward(ours) == original


def test_other_name_of_the_queue_pointer() -> None:
    assert KEY_MAP.forward("ptr_queue") == ("queue_ptr",)
    assert KEY_MAP.backward("queue_ptr") == "queue_ptr"


def test_rules_match_whole_keys() -> None:
    assert KEY_MAP.forward("my_visual_encoder.norm.weight") == ("my_visual_encoder.norm.weight",)
    assert KEY_MAP.forward("visual_encoder") == ("visual_encoder",)
    assert KEY_MAP.forward("ptr_queue.more") == ("ptr_queue.more",)


def test_cross_attention_is_copied_for_two_images() -> None:
    to_pairs = KEY_MAP.preceded_by(ARCHITECTURES["blip_nlvr"].transfer_renames["blip_pretrain"])
    layer = "text_encoder.encoder.layer.4.crossattention"
    assert to_pairs.forward(f"{layer}.self.query.weight") == (
        f"{layer}.self0.query.weight",
        f"{layer}.self1.query.weight",
    )
    assert to_pairs.forward(f"{layer}.output.dense.bias") == (
        f"{layer}.output.dense0.bias",
        f"{layer}.output.dense1.bias",
    )
    assert to_pairs.forward(f"{layer}.output.LayerNorm.bias") == (f"{layer}.output.LayerNorm.bias",)
    assert to_pairs.forward(f"{layer}.self0.query.weight") == (f"{layer}.self0.query.weight",)


def test_first_matching_rule_is_used() -> None:
    table = KeyMap((Rename("a.{n:d}.{rest}", "b.{n}.{rest}"), Rename("a.{rest}", "c.{rest}")))
    assert table.forward("a.7.w") == ("b.7.w",)
    assert table.forward("a.x.w") == ("c.x.w",)
    assert table.backward("b.7.w") == "a.7.w"
    assert table.backward("c.x.w") == "a.x.w"


def test_templates_match_whole_names_and_literal_dots() -> None:
    assert matches("{rest}.position_ids", "text_encoder.embeddings.position_ids")
    assert not matches("{rest}.position_ids", "text_encoder.embeddings.position_ids.more")
    assert not matches("a.b", "a_b")
    assert matches("layer.{n:d}", "layer.10") and not matches("layer.{n:d}", "layer.ten")


RECOGNIZED = [
    (["visual_encoder.norm.bias", "text_decoder.bert.x"], "blip_caption"),
    (["visual_encoder.norm.bias", "text_encoder.x", "text_decoder.bert.x"], "blip_vqa"),
    (["visual_encoder.norm.bias", "text_encoder.x", "text_decoder.x", "itm_head.weight"], "blip_pretrain"),
    (["visual_encoder.norm.bias", "text_encoder.x", "itm_head.weight", "temp", "image_queue"], "blip_retrieval"),
    (["visual_encoder.norm.bias", "text_encoder.x", "itm_head.weight"], "blip_image_text_matching"),
    (["visual_encoder.norm.bias", "text_encoder.x", "vision_proj.weight", "temp"], "blip_feature_extractor"),
    (["visual_encoder.norm.bias", "text_encoder.x", "cls_head.0.weight"], "blip_classification"),
    (
        [
            "visual_encoder.norm.bias",
            "text_encoder.encoder.layer.0.crossattention.self0.key.bias",
            "cls_head.0.weight",
        ],
        "blip_nlvr",
    ),
]


@pytest.mark.parametrize(("names", "architecture"), RECOGNIZED)
def test_architectures_are_recognized_by_keys(names: list[str], architecture: str) -> None:
    assert FAMILY.recognize(names) == architecture


def test_every_architecture_has_keys_to_recognize_it() -> None:
    assert {architecture for _, architecture in RECOGNIZED} == set(ARCHITECTURES)
