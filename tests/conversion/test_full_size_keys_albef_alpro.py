"""Keys of the original's full-size ALBEF and ALPRO models: each one is used or dropped for a reason."""

from pathlib import Path

import pytest

from modeling_lavis.hub import albef, alpro, zoo
from tests.conversion.test_full_size_keys import FOLDER, conversion_plan, full_size, variant

FILES = sorted([*FOLDER.glob("albef_*.json"), *FOLDER.glob("alpro_*.json")])


class BertTokenizer:
    """The attributes of bert-base-uncased that a conversion needs."""

    pad_token_id, cls_token_id, sep_token_id, mask_token_id, bos_token_id = 0, 101, 102, 103, None

    def __len__(self) -> int:
        return 30522

    def convert_tokens_to_ids(self, token: str) -> int:
        return {"[PAD]": 0, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103}[token]


def test_all_published_checkpoints_are_covered() -> None:
    published = {key for key in zoo.entries() if key[0].startswith(("albef_", "alpro_"))}
    assert {variant(path) for path in FILES} == published and len(published) == 11


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_key_is_used_or_dropped_for_a_reason(path: Path) -> None:
    architecture, model_type = variant(path)
    family = (albef if architecture.startswith("albef") else alpro).FAMILY
    sources = full_size(path)
    settings = dict(zoo.get(architecture, model_type).settings)
    plan, _ = conversion_plan(architecture, sources, settings, family=family, tokenizer=BertTokenizer())

    used = {filled.source for filled in plan.filled.values()}
    assert used | set(plan.dropped) == set(sources) and not used & set(plan.dropped)
    assert set(plan.filled) | set(plan.initialized) == set(plan.targets)
    for target, filled in plan.filled.items():
        assert sources[filled.source].shape == plan.targets[target].shape, target
    assert not plan.initialized
    for name, reason in plan.dropped.items():
        known = name.endswith("position_ids") or "tied weight" in reason
        assert known or (architecture == "albef_feature_extractor" and "MLM head" in reason), (name, reason)
