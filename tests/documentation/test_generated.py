"""Parts of pages that are made from data, and tables whose entries have to exist."""

import argparse
import inspect
import re
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

import modeling_lavis
from modeling_lavis.training import recipe_options
from tests.documentation import generated_parts

TOP = Path(__file__).resolve().parents[2]
SECTIONS = {
    "start": recipe_options.StartOptions,
    "model": recipe_options.ModelOptions,
    "data": recipe_options.DataOptions,
    "optimizer": recipe_options.OptimizerOptions,
    "run": recipe_options.RunOptions,
    "evaluation": recipe_options.EvaluationOptions,
}
#: keys of LAVIS's training and evaluation files
KEYS = set(
    """
    arch model_type load_pretrained pretrained load_finetuned finetuned image_size vit_type vit_grad_ckpt vit_ckpt_layer
    vit_drop_path_rate drop_path_rate vit_model vit_precision use_grad_checkpoint freeze_vit num_query_token opt_model
    t5_model queue_size momentum alpha use_distill embed_dim temp negative_all_rank num_classes max_txt_len prompt
    n_frms med_config_path apply_lemmatizer sample_ratio build_info annotations images storage vis_processor
    text_processor max_words runner task lr_sched init_lr min_lr warmup_steps warmup_lr lr_decay_rate lr_layer_decay
    weight_decay beta2 max_epoch max_iters iters_per_inner_epoch batch_size_train batch_size_eval accum_grad_iters amp
    seed num_workers output_dir resume_ckpt_path train_splits valid_splits test_splits evaluate val_freq save_freq
    save_last device world_size dist_url distributed use_dist_eval_sampler k_test num_beams max_len min_len
    length_penalty inference_method num_ans_candidates report_metric annotation_file img_ids train_dataset_ratios
    """.split()
)


def test_table_of_recipes_is_up_to_date() -> None:
    expected = generated_parts.recipe_table()
    assert generated_parts.current_table() == expected, "run python -m tests.documentation.generated_parts"
    assert expected.count("\n") == 28  # 26 published runs


def test_extensions_are_shown_as_they_are() -> None:
    page = generated_parts.EXTENDING.read_text(encoding="utf-8")
    assert page == generated_parts.extending_page(), "run python -m tests.documentation.generated_parts"
    files = {path.relative_to(TOP).as_posix() for path in (TOP / "examples" / "extending").glob("*.py")}
    assert set(generated_parts.shown_files()) == files


# ---- from LAVIS's YAML to ours ----


def table_rows() -> list[tuple[str, str]]:
    text = (TOP / "docs" / "from-lavis-yaml.md").read_text(encoding="utf-8")
    cells = [line.strip("|").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return [(row[0], row[1]) for row in cells if row[0].strip() not in ("LAVIS", "---")]


def names_in(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def test_every_key_of_lavis_has_an_entry() -> None:
    listed = {name for row, _ in table_rows() for name in names_in(row)}
    assert listed >= KEYS


def _options_of(path: str) -> set[str]:
    """Names that a field with options may have."""
    from modeling_lavis.data import transforms
    from modeling_lavis.evaluation.tasks import EVALUATIONS

    if path == "evaluation.options":
        return {name for function in EVALUATIONS.values() for name in inspect.signature(function).parameters}
    if path == "data.processor":
        return set(inspect.signature(modeling_lavis.LavisBlipProcessor.__init__).parameters)
    if path == "data.transform_options":
        return {"min_scale", "max_scale"} & set(inspect.signature(transforms.timm_image_train).parameters)
    configurations = {
        "model.config": ("LavisBlipConfig", "AlbefConfig", "LavisBlip2Config"),
        "model.config.vision_config": ("LavisViTConfig",),
        "model.config.qformer_config": ("LavisQFormerConfig",),
    }
    kinds = [getattr(modeling_lavis, name) for name in configurations[path]]
    return {name for kind in kinds for name in inspect.signature(kind.__init__).parameters} | {
        name for kind in kinds if is_dataclass(kind) for name in (entry.name for entry in fields(kind))
    }


@pytest.mark.parametrize(
    "path",
    sorted({n for _, ours in table_rows() for n in names_in(ours) if n.partition(".")[0] in SECTIONS and "." in n}),
)
def test_fields_of_recipes_exist(path: str) -> None:
    section, field, *rest = path.split(".")
    assert field in {entry.name for entry in fields(SECTIONS[section])}
    for depth, name in enumerate(rest):
        assert name in _options_of(".".join([section, field, *rest[:depth]]))


def test_flags_exist() -> None:
    pytest.importorskip("accelerate")
    from modeling_lavis.cli import convert, evaluate, train

    def flags_of(module: Any) -> set[str]:
        parser = module.add_parser(argparse.ArgumentParser().add_subparsers())
        return {flag for action in parser._actions for flag in action.option_strings}

    shown = {word for _, ours in table_rows() for name in names_in(ours) for word in name.split() if word[:2] == "--"}
    assert shown <= flags_of(train) | flags_of(evaluate) | flags_of(convert), shown
