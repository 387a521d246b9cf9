"""The page about LAVIS's calls names every public call, and every name of ours that its tables have exists."""

import importlib
import re
from pathlib import Path

import modeling_lavis

PAGE = Path(__file__).resolve().parents[2] / "docs" / "from-lavis.md"
# Public functions, and methods of models, tasks, runners and the registry of version 1.0.2, for the four families.
CALLS = """
load_model load_model_and_preprocess load_preprocess load_processor model_zoo load_dataset dataset_zoo
setup_task build_model build_datasets train_step valid_step evaluation train_epoch save_result
from_config from_pretrained default_config_path load_checkpoint load_checkpoint_from_config load_from_pretrained
before_evaluation show_n_params device copy_params reset_queue_ptr share_cross_attention tie_encoder_decoder_weights
init_tokenizer init_vision_encoder init_Qformer maybe_autocast disabled_train lemmatizer mask
extract_features generate predict_answers predict rank_answers compute_sim_matrix compute_itm compute_vtm itm_rank
compute_gradcam forward_encoder forward_decoder forward_features forward_image forward_text
get get_path get_builder_class get_lr_scheduler_class get_model_class get_processor_class get_runner_class
get_task_class list_datasets list_lr_schedulers list_models list_processors list_runners list_tasks
register register_builder register_lr_scheduler register_model register_path register_processor register_runner
register_task RunnerBase RunnerIter
blip_image_eval blip_image_train blip2_image_train blip_caption blip_question alpro_video_train alpro_video_eval
""".split()


def test_every_call_of_lavis_is_on_the_page() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert [call for call in CALLS if not re.search(rf"(?<!\w){re.escape(call)}(?!\w)", text)] == []


def test_every_architecture_is_on_the_page() -> None:
    from modeling_lavis.hub.zoo import architectures

    text = PAGE.read_text(encoding="utf-8")
    assert [name for name in architectures() if f"`{name}`" not in text and f'"{name}"' not in text] == []


def test_names_of_ours_in_the_tables_exist() -> None:
    cells = [
        cell
        for line in PAGE.read_text(encoding="utf-8").splitlines()
        if line.startswith("| ") and line.count("|") == 3
        for cell in re.findall(r"`([^`]+)`", line.split("|")[2])
    ]
    assert len(cells) > 20
    for cell in cells:
        name = re.match(r"[\w.]+", cell)
        if name and name[0].startswith("modeling_lavis."):
            module, _, attribute = name[0].rpartition(".")
            assert hasattr(importlib.import_module(module), attribute), cell
        elif name and name[0].partition(".")[0][:1].isupper() and name[0].partition(".")[0] in modeling_lavis.__all__:
            owner, _, attribute = name[0].partition(".")
            assert not attribute or hasattr(getattr(modeling_lavis, owner), attribute), cell
