"""`push_to_hub=True`: what a Trainer puts on the Hub while it trains and at the end, and a run that starts from it."""

import json
from pathlib import Path

import pytest

from tests.hub.server import LoopbackHub
from tests.hub.sessions import run_python

pytestmark = pytest.mark.slow

TRAIN = """
from pathlib import Path
import torch
from transformers import Trainer
from modeling_lavis import LavisBlipForImageTextRetrieval, LavisBlipProcessor
from modeling_lavis.training import LavisTrainer
from tests.training.trainer_cases import retrieval_trainer, write_rows

folder, goldens = Path({folder!r}), Path({goldens!r})
rows = write_rows(folder / "rows", 4)
for trainer_class in (Trainer, LavisTrainer):
    for strategy in ("end", "every_save", "checkpoint", "all_checkpoints"):
        if trainer_class is Trainer and strategy != "every_save":
            continue
        name = f"org/{{trainer_class.__name__}}-{{strategy}}"
        options = {{"num_train_epochs": 3, "save_strategy": "epoch", "push_to_hub": True, "hub_model_id": name}}
        options["remove_unused_columns"] = False
        if strategy == "all_checkpoints":
            options |= {{"save_total_limit": 1, "hub_always_push": True}}
        trainer = retrieval_trainer(
            goldens, rows, folder / name, trainer=trainer_class, hub_strategy=strategy, **options
        )
        trainer.train()
        trainer.push_to_hub(commit_message="The end")
        model = LavisBlipForImageTextRetrieval.from_pretrained(name)
        for key, value in trainer.model.state_dict().items():
            torch.testing.assert_close(model.state_dict()[key], value, rtol=0, atol=0)
        assert type(LavisBlipProcessor.from_pretrained(name)) is LavisBlipProcessor

# a run that starts from what another one pushed
trainer = retrieval_trainer(
    goldens, rows, folder / "second", model=LavisBlipForImageTextRetrieval.from_pretrained("org/LavisTrainer-end"),
    num_train_epochs=1, push_to_hub=True, hub_model_id="org/second", hub_private_repo=True, hub_revision="trial",
)
"""


def test_trainers_push(tmp_path: Path, goldens: Path) -> None:
    with LoopbackHub(tmp_path / "hub") as hub:
        run_python(TRAIN.format(folder=str(tmp_path / "runs"), goldens=str(goldens)), hub, token=hub.token)
        expected = {"config.json", "model.safetensors", "processor_config.json", "README.md", "training_args.bin"}
        titles = {}
        for name, repository in hub.repositories.items():
            if name == "org/second":
                continue
            files = hub.files(name)
            assert expected <= files.keys(), name
            assert not [path for path in files if path.startswith(("_", "checkpoint-")) and "all" not in name], name
            titles[name] = [commit.title for commit in repository.history(hub.head(name))][::-1]
            assert titles[name][0] == "initial commit" and titles[name][-1] == "The end"
            if name != "org/Trainer-every_save":
                card = files["README.md"].decode()
                assert "LavisBlipForImageTextRetrieval" in card and card.startswith("---\n")
        assert titles["org/LavisTrainer-end"] == ["initial commit", "The end"]
        assert any("in progress" in title for title in titles["org/LavisTrainer-every_save"])
        state = json.loads(hub.files("org/LavisTrainer-checkpoint")["last-checkpoint/trainer_state.json"])
        assert state["global_step"] > 0
        steps = {
            path.partition("/")[0]
            for path in hub.files("org/LavisTrainer-all_checkpoints")
            if path.startswith("checkpoint-")
        }
        assert steps
