"""`modeling-lavis zoo`: conditions, names, text and JSON."""

import json

import pytest

from modeling_lavis.cli.main import main
from modeling_lavis.hub import zoo, zoo_list
from modeling_lavis.hub.families import family_of


def names(**conditions: object) -> set[str]:
    return {entry.name for entry in zoo_list.select(**conditions)}  # type: ignore[arg-type]


def test_conditions_select_checkpoints() -> None:
    assert len(names()) == 41
    assert names(family="alpro", task="video-qa") == {"alpro_qa__msrvtt", "alpro_qa__msvd"}
    assert names(licence="OPT") == {name for name in names() if name.startswith("blip2_opt")}
    assert names(scores=["VQAv2 > 78"]) == {"blip_vqa__vqav2"}
    assert names(scores=["COCO CIDEr >= 145.1", "CIDEr < 146"]) == {"blip2_opt__caption_coco_opt6.7b"}
    assert names(scores=["TR@1", "DiDeMo"]) == {"alpro_retrieval__didemo"}
    small = names(max_size="225M")
    assert "blip_caption__base_coco" in small and "blip_caption__large_coco" not in small
    assert names(min_size="10B") == {"blip2_t5__pretrain_flant5xxl"}
    assert names(min_size=1e10, max_size="2b") == set()


def test_every_architecture_is_in_the_table_of_its_family() -> None:
    known = zoo.architectures()
    assert {entry.architecture for entry in zoo.entries().values()} == set(known)
    tables = {name: family_of(name).architectures for name in known}
    assert all(name in table for name, table in tables.items())
    others = {name for table in tables.values() for name in table} - set(known)
    sources = {name for table in tables.values() for entry in table.values() for name in entry.sources}
    assert others == {"albef_nlvr_pretrain", "alpro_pretrain"} and others <= sources


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        ({"family": "clip"}, "expected one of albef, alpro, blip, blip2"),
        ({"task": "caption"}, "expected one of captioning,"),
        ({"max_size": "big"}, "'big' is not a number of parameters"),
        ({"scores": [">= 3"]}, "cannot be read"),
    ],
)
def test_conditions_that_cannot_be_read(conditions: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        zoo_list.select(**conditions)  # type: ignore[arg-type]


def test_command_lists_checkpoints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["zoo", "--family", "blip", "--task", "captioning"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["checkpoint", "blip_caption/base_coco", "blip_caption/large_coco"]
    assert lines[1].split()[1:4] == ["captioning", "224M", "bsd-3-clause"] and "CIDEr 133.5" in lines[1]
    assert main(["zoo", "--task", "classification", "--json"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [about["name"] for about in found] == ["albef_classification__ve", "blip_classification__base"]
    assert found[0] == zoo_list.describe(zoo.get("albef_classification", "ve"))
    assert found[0]["model_class"] == "AlbefForImageAndTextClassification" and not found[1]["own_checkpoint"]


def test_command_shows_checkpoints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["zoo", "blip2_opt/pretrain_opt2.7b", "alpro-qa-msvd"]) == 0
    shown = capsys.readouterr().out
    for text in ("facebook/opt-2.7b", "opt-license", "VQAv2", "16 frames", "MSVD-QA, test: accuracy 46.0"):
        assert text in shown, text
    assert zoo.get("alpro_qa", "msvd").source in shown
    assert main(["zoo", "blip_caption/base"]) == 1
    assert "blip_caption/base_coco" in capsys.readouterr().err
    assert main(["zoo", "blip_caption/base_coco", "--task", "vqa"]) == 2
    assert main(["zoo", "--task", "video-qa", "--licence", "opt"]) == 1
    assert "no published checkpoint fits" in capsys.readouterr().err
    assert main(["zoo", "--task", "nothing"]) == 2
