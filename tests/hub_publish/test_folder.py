"""What is published of a folder, and what is wrong with it."""

import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from modeling_lavis.hub.offline import parts_elsewhere
from modeling_lavis.hub.publish import publish
from modeling_lavis.hub.repository_files import FolderError, check_folder, list_folder, replaced_files
from tests.hub_publish.repositories import CARD


def problems(folder: Path, **options: list[str]) -> list[str]:
    return check_folder(folder, list_folder(folder, **options))


def test_a_saved_model_is_complete(saved_captioner: Path) -> None:
    listing = list_folder(saved_captioner)
    assert check_folder(saved_captioner, listing) == []
    assert [file.path for file in listing.files] == sorted(path.name for path in saved_captioner.iterdir())
    assert listing.size == sum(path.stat().st_size for path in saved_captioner.iterdir())
    assert listing.left_out == listing.unknown == listing.problems == ()


def test_state_of_a_run_is_left_out(captioner: Path) -> None:
    for name in ("training_args.bin", "trainer_state.json", "optimizer.pt", ".DS_Store"):
        (captioner / name).write_bytes(b"x")
    for folder in ("checkpoint-10", "runs/today", ".git", ".cache/huggingface", "__pycache__"):
        (captioner / folder).mkdir(parents=True)
        (captioner / folder / "model.safetensors").write_bytes(b"x")
    (captioner / "recipe.json").write_text("{}")
    (captioner / "curves.png").write_bytes(b"x")
    listing = list_folder(captioner)
    assert check_folder(captioner, listing) == []
    assert {"recipe.json", "curves.png"} <= {file.path for file in listing.files}
    assert listing.left_out == (
        ".DS_Store",
        ".cache/",
        ".git/",
        "__pycache__/",
        "checkpoint-10/",
        "optimizer.pt",
        "runs/",
        "trainer_state.json",
        "training_args.bin",
    )


def test_nothing_else_is_published_unasked(captioner: Path) -> None:
    (captioner / "notes").mkdir()
    (captioner / "notes" / "secret.txt").write_text("x")
    (captioner / "table.csv").write_text("x")
    found = problems(captioner)
    assert len(found) == 2 and all("--include" in problem and "--exclude" in problem for problem in found)
    options = {"include": ["*.csv"], "exclude": ["notes/*"]}
    listing = list_folder(captioner, **options)
    assert "table.csv" in {file.path for file in listing.files}
    assert listing.left_out == ("notes/secret.txt",)
    assert check_folder(captioner, listing) == []


@pytest.mark.slow
def test_pictures_of_the_card_are_published(captioner: Path) -> None:
    (captioner / "figures").mkdir()
    (captioner / "figures" / "example.png").write_bytes(b"x")
    assert "figures/example.png is not a file of a model" in problems(captioner)[0]
    with (captioner / "README.md").open("a") as file:
        file.write("![an example](figures/example.png)\n")
    assert problems(captioner) == []
    assert "figures/example.png" in {file.path for file in list_folder(captioner).files}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pytorch_model.bin", "extra.pkl", "innocent.txt", "vocab.txt", "weights.th"])
def test_pickles_are_never_published(name: str, captioner: Path) -> None:
    if name == "weights.th":  # as torch.save writes it
        with zipfile.ZipFile(captioner / name, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps({}))
    else:
        (captioner / name).write_bytes(pickle.dumps({"a": 1}))
    found = problems(captioner, include=["*"])
    assert len(found) == 1 and f"{name} is a pickle" in found[0]
    assert problems(captioner, exclude=[name]) == []


@pytest.mark.slow
def test_links_to_folders_and_devices_are_not_followed(captioner: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "key.txt").write_text("secret")
    (captioner / "link").symlink_to(tmp_path / "elsewhere")
    assert list_folder(captioner, include=["*"]).left_out == ("link/",)
    os.mkfifo(captioner / "LICENSE")
    assert problems(captioner) == ["LICENSE is not a regular file. Delete it."]


def card_of(text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "README.md").write_text(text)


def shard(folder: Path) -> None:
    """Weights in one shard with an index."""
    from safetensors import safe_open

    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    with safe_open(folder / "model-00001-of-00001.safetensors", "pt") as file:
        weight_map = dict.fromkeys(file.keys(), "model-00001-of-00001.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def shard_with(change: Callable[[dict[str, str]], object]) -> Callable[[Path], object]:
    def apply(folder: Path) -> None:
        shard(folder)
        index = json.loads((folder / "model.safetensors.index.json").read_text())
        change(index["weight_map"])
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    return apply


def both_kinds_of_weights(folder: Path) -> None:
    weights = (folder / "model.safetensors").read_bytes()
    shard(folder)
    (folder / "model.safetensors").write_bytes(weights)


def truncated(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-8])


def edit_config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda folder: (folder / "config.json").unlink(), "no config.json"),
    "other class": (lambda folder: edit_config(folder, architectures=["BertModel"]), "names 'BertModel'"),
    "no class": (lambda folder: edit_config(folder, architectures=None), "names None"),
    "local part": (
        lambda folder: edit_config(folder, frozen_parts={"vision_model": "/home/me/eva"}),
        "of this machine",
    ),
    "local part in a dictionary": (
        lambda folder: edit_config(folder, frozen_parts={"vision_model": {"source": "./eva", "revision": None}}),
        "of this machine",
    ),
    "part of another form": (lambda folder: edit_config(folder, frozen_parts={"vision_model": 3}), "has 3 for vision"),
    "parts of another form": (lambda folder: edit_config(folder, frozen_parts=["org/eva"]), "expected a mapping"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "neither model.safetensors nor"),
    "truncated": (truncated, "model.safetensors is damaged"),
    "two kinds": (both_kinds_of_weights, "one is of another save"),
    "missing shard": (shard_with(lambda keys: keys.update(a="model-00002-of-00002.safetensors")), "is missing"),
    "empty index": (shard_with(lambda keys: keys.clear()), "has no weight_map"),
    "missing key": (shard_with(lambda keys: keys.update(a="model-00001-of-00001.safetensors")), "lacks a,"),
    "old shard": (
        lambda folder: (folder / "model-00001-of-00002.safetensors").write_bytes(
            (folder / "model.safetensors").read_bytes()
        ),
        "of another save",
    ),
    "no processor": (lambda folder: (folder / "processor_config.json").unlink(), "no processor"),
    "broken JSON": (lambda folder: (folder / "generation_config.json").write_text("{"), "is not valid JSON"),
    "unfinished": (lambda folder: (folder / ".config.json.partial-1a").write_text(""), "interrupted"),
    "unfinished save": (
        lambda folder: (folder / ".partial-1a").mkdir() or (folder / ".partial-1a" / "config.json").write_text("{}"),
        ".partial-1a is what an interrupted command was writing",
    ),
    "no card": (lambda folder: (folder / "README.md").unlink(), "no model card"),
    "card without metadata": (card_of("# A captioner\n"), "has no metadata"),
    "card with wrong YAML": (card_of("---\na: [\n---\n"), "metadata of README.md are not valid"),
    "card without licence": (card_of(CARD.replace("license: bsd-3-clause\n", "")), "states no licence"),
    "card with wrong tags": (card_of(CARD.replace("---\n", "---\ntags: [1]\n", 1)), "README.md: tags is [1]"),
    "card of another library": (card_of(CARD.replace("transformers\n", "timm\n", 1)), "library_name 'timm'"),
    "card with wrong results": (
        card_of(CARD.replace("---\n", "---\nmodel-index:\n- name: a\n  results: [1]\n", 1)),
        "metadata of README.md are not valid",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named(name: str, captioner: Path) -> None:
    change, message = WRONG[name]
    change(captioner)
    found = problems(captioner)
    assert any(message in problem for problem in found), found
    with pytest.raises(FolderError, match="is not ready to be published"):
        publish(captioner, "me/captioner", dry_run=True)


@pytest.mark.slow
def test_shards_are_complete(captioner: Path) -> None:
    shard(captioner)
    assert problems(captioner) == []


@pytest.mark.slow
def test_all_problems_at_once(captioner: Path) -> None:
    (captioner / "README.md").unlink()
    (captioner / "a.pkl").write_bytes(b"x")
    with pytest.raises(FolderError) as caught:
        publish(captioner, "me/captioner")
    assert len(caught.value.problems) == 2
    assert str(caught.value).count("\n- ") == 2


def test_files_of_the_earlier_model_are_replaced_and_others_stay(captioner: Path) -> None:
    remote = [
        *("model-00001-of-00002.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "vocab.txt"),
        *("model.safetensors", "config.json", "old_code.py", "video_preprocessor_config.json"),
        *(".gitattributes", "README.md", "example.png", "LICENSE", "figures/a.safetensors", ".eval_results/a.yaml"),
    ]
    assert replaced_files(remote, list_folder(captioner)) == [
        "model-00001-of-00002.safetensors",
        "model.safetensors.index.json",
        "old_code.py",
        "pytorch_model.bin",
        "video_preprocessor_config.json",
        "vocab.txt",
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("repo_id", "options", "message"),
    [
        ("captioner", {}, "does not say whose"),
        ("me/a/b", {}, "is not the name of a repository"),
        ("me/a b", {}, "is not the name of a repository"),
        ("me/a", {"revision": "0" * 40}, "is the commit"),
        ("me/a", {"revision": "v2", "create_pr": True}, "opened against main"),
    ],
)
def test_targets_that_cannot_be(repo_id: str, options: dict[str, object], message: str, captioner: Path) -> None:
    with pytest.raises(ValueError, match=message):
        publish(captioner, repo_id, **options)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_file_is_no_folder(captioner: Path) -> None:
    with pytest.raises(NotADirectoryError, match="is not a folder"):
        publish(captioner / "config.json", "me/a")


def test_parts_elsewhere_are_repositories_without_their_revision(tmp_path: Path) -> None:
    parts = {"vision_model": "org/eva@v2", "language_model": {"source": "org/opt", "subfolder": "half"}}
    (tmp_path / "config.json").write_text(json.dumps({"frozen_parts": parts}))
    assert parts_elsewhere(str(tmp_path)) == ["org/eva", "org/opt"]
    (tmp_path / "config.json").write_text(json.dumps({"frozen_parts": 3}))
    assert parts_elsewhere(str(tmp_path)) == []
