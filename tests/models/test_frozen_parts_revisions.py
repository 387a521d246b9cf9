"""Frozen parts at a certain revision of their repository, and what else `frozen_parts` may say."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from modeling_lavis import LavisBlip2Config, LavisBlip2ForConditionalGeneration
from modeling_lavis.models.configuration_base import FrozenPart
from tests.hub.server import LoopbackHub
from tests.hub.sessions import Session
from tests.models.lavis_blip_2_cases import second_stage

LOAD = """
from modeling_lavis import LavisBlip2ForConditionalGeneration
model = LavisBlip2ForConditionalGeneration.from_pretrained({folder!r})
print(model.vision_model.cls_token.sum().item(), model.get_input_embeddings().weight.sum().item())
print(model.generation_config.num_beams)
"""


def push_revisions(hub: LoopbackHub, folder: Path) -> None:
    """Both frozen parts at two revisions with different weights."""
    for number, revision in enumerate(("main", "v2")):
        model = second_stage("opt")
        with torch.no_grad():
            model.vision_model.cls_token.fill_(1 + number)
            model.get_input_embeddings().weight.fill_(0.01 * (1 + number))
        for name, part in (("vision", model.vision_model), ("opt", model.language_model)):
            part.save_pretrained(folder / revision / name)
            if revision == "main":
                hub.create(f"org/{name}")
            hub.commit(f"org/{name}", folder / revision / name, revision)


@pytest.mark.slow
def test_parts_are_loaded_at_their_revision(tmp_path: Path) -> None:
    model = second_stage("opt")
    model.generation_config.num_beams = 7
    tokens = model.get_input_embeddings().weight.numel()
    size = model.vision_model.cls_token.numel()
    with LoopbackHub(tmp_path / "hub") as hub, Session(hub, tmp_path / "home") as session:
        push_revisions(hub, tmp_path / "parts")
        for number, (places, expected) in enumerate(
            [
                ({"vision_model": "org/vision", "language_model": "org/opt"}, (1, 0.01)),
                ({"vision_model": "org/vision@v2", "language_model": "org/opt"}, (2, 0.01)),
                (
                    {
                        "vision_model": {"source": "org/vision", "revision": "v2"},
                        "language_model": {"source": "org/opt", "revision": "v2"},
                    },
                    (2, 0.02),
                ),
            ]
        ):
            folder = tmp_path / str(number)
            model.save_pretrained(folder, frozen_parts=places)
            assert json.loads((folder / "config.json").read_text())["frozen_parts"] == places
            vision, language, beams = session.run(LOAD.format(folder=str(folder))).split()
            assert float(vision) == pytest.approx(expected[0] * size)
            assert float(language) == pytest.approx(expected[1] * tokens, rel=1e-3)
            assert beams == "7"


def test_what_a_place_may_be(tmp_path: Path) -> None:
    assert FrozenPart.read("vision_model", "org/name") == ("org/name", None, None)
    assert FrozenPart.read("vision_model", "org/name@abc") == ("org/name", "abc", None)
    assert str(FrozenPart.read("vision_model", {"source": "org/name", "revision": "abc"})) == "org/name@abc"
    with_sign = tmp_path / "home@work" / "model"
    for folder in (with_sign, Path("./home@work"), Path("../a@b"), Path("one/two/three@b")):
        assert FrozenPart.read("vision_model", folder).source == str(folder) or not folder.is_absolute()
        assert FrozenPart.read("vision_model", folder).revision is None or not folder.is_absolute()
    with_sign.mkdir(parents=True)
    assert FrozenPart.read("vision_model", str(with_sign)) == (str(with_sign), None, None)


@pytest.mark.parametrize(
    "wrong", [3, [], {}, {"revision": "x"}, {"source": ""}, {"source": 1}, {"source": "a", "branch": "b"}, "", None]
)
def test_places_that_are_none(wrong: Any, tmp_path: Path) -> None:
    message = r"frozen_parts has .* for vision_model; expected a folder, a Hub id"
    with pytest.raises(ValueError, match=message):
        second_stage("opt").save_pretrained(tmp_path / "model", frozen_parts={"vision_model": wrong})
    assert not (tmp_path / "model").exists()
    model = second_stage("opt")
    model.save_pretrained(tmp_path / "model")
    stored = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps({**stored, "frozen_parts": {"vision_model": wrong}}))
    for load_it in (LavisBlip2Config.from_pretrained, LavisBlip2ForConditionalGeneration.from_pretrained):
        with pytest.raises(ValueError, match=message):
            load_it(tmp_path / "model")


def test_generation_settings_of_a_repository_without_its_parts(tmp_path: Path) -> None:
    model = second_stage("opt")
    model.generation_config.num_beams = 7
    model.language_model.save_pretrained(tmp_path / "opt")
    model.save_pretrained(tmp_path / "small", frozen_parts={"language_model": str(tmp_path / "opt")})
    again = LavisBlip2ForConditionalGeneration.from_pretrained(tmp_path / "small")
    assert again.generation_config.num_beams == 7
