"""Publishing on a loopback Hub: upload, load back, compare, and what can go wrong on the way."""

import json
import subprocess
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from modeling_lavis.files import sha256_of
from tests.hub.server import LoopbackHub
from tests.hub.sessions import run_python
from tests.hub_publish.repositories import local_files, on_the_hub, run_publish

pytestmark = pytest.mark.slow

REPO = "org/captioner"


def test_a_new_repository(captioner_with_code: Path, hub: LoopbackHub, tmp_path: Path) -> None:
    """Everything arrives, loads with and without the package, and computes the same."""
    (captioner_with_code / "training_args.bin").write_bytes(b"x")
    home = tmp_path / "home"
    done = run_publish(hub, captioner_with_code, REPO, "--private", "--json", home=home)
    report = json.loads(done.stdout)
    assert hub.repositories[REPO].private
    published = on_the_hub(hub, REPO)
    here = local_files(captioner_with_code)
    assert here.pop("training_args.bin") and report["left_out"] == ["training_args.bin"]
    assert published == here
    assert report["files"] == {name: len(content) for name, content in here.items()}
    assert report["commit"] == hub.head(REPO).oid and report["revision"] == "main"
    assert report["private"] and report["changed"] and not report["deleted"]
    assert report["url"] == f"{hub.endpoint}/{REPO}/tree/{report['commit']}"
    assert report["compared"] > 5
    # the card names the repository in its examples, here and there, and nowhere else
    card = published["README.md"].decode()
    assert f'from_pretrained("{REPO}")' in card and f"model='{REPO}'" in card and 'say "captioner"' in card
    assert report["card_changed"]
    # every download was of exactly that commit
    paths = [request.path for request in hub.requests if "/resolve/" in request.path]
    assert paths and all(f"/resolve/{report['commit']}/" in path or "/resolve/main/" in path for path in paths), paths
    assert not list(home.rglob("published/*"))  # what was downloaded for the comparison is gone
    steps = done.stderr
    assert steps.index("loading the folder") < steps.index("uploading") < steps.index("loading back commit")


def test_an_interrupted_upload_continues(captioner: Path, hub: LoopbackHub) -> None:
    split_in_two(captioner)
    first, second = (captioner / f"model-0000{number}-of-00002.safetensors" for number in (1, 2))
    hub.cut(1000, "upload", times=100, match=sha256_of(second))
    run_short(
        """
message = error(folder, "org/captioner")
assert "cannot be uploaded to org/captioner" in message and "Repeat the command" in message, message
""",
        hub,
        captioner,
    )
    assert on_the_hub(hub, REPO) == {}  # no partial upload is visible
    hub.faults.cuts.clear()
    before = len(hub.requests)
    run_short('assert publish(folder, "org/captioner").changed', hub, captioner)
    assert on_the_hub(hub, REPO) == local_files(captioner)
    sent = [request.path for request in hub.requests[before:] if request.method == "PUT"]
    assert [path for path in sent if sha256_of(second) in path]
    assert not [path for path in sent if sha256_of(first) in path]  # it had arrived


def split_in_two(folder: Path) -> None:
    """Store weights in two shards, the second with nearly all of them."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    key = max(tensors, key=lambda name: tensors[name].numel())
    shards = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    save_file({key: tensors.pop(key)}, folder / shards[0], {"format": "pt"})
    save_file(tensors, folder / shards[1], {"format": "pt"})
    weight_map = {key: shards[0], **dict.fromkeys(tensors, shards[1])}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def test_files_that_the_hub_has_otherwise(captioner: Path, hub: LoopbackHub) -> None:
    """What the Hub says that it has is compared with what was sent."""

    def corrupt(name: str) -> None:
        commit = hub.head(REPO)
        content = hub.objects.read(commit.files[name])
        commit.files[name] = hub.objects.blob(name, content[:-1] + b"?")

    for name in ("model.safetensors", "config.json"):
        hub.after_request("/commit/main", lambda name=name: corrupt(name))  # type: ignore[misc]
        (captioner / "generation_config.json").write_text(f'{{"max_length": {len(name)}}}')
        run_short(
            f"""
message = error(folder, "org/captioner")
assert message.startswith("commit ") and "does not have the {name} of" in message, message
""",
            hub,
            captioner,
        )


# ---- what does not depend on the model: one process, in which the comparison of models is short ----

SHORT = """
import json, torch
from pathlib import Path
from safetensors.torch import save_file
from modeling_lavis.hub import publish as module
from modeling_lavis.hub.loading_check import Loaded

def load_in_process(source, work, name, **options):
    loads.append((source, options.get("revision"), options.get("with_package", True), options.get("offline", False)))
    file = work / (name + ".safetensors")
    save_file({"a": torch.zeros(2)}, file)
    return Loaded(file, {"class": "LavisBlipForConditionalGeneration", "processor": "LavisBlipProcessor"})

loads = []
module.load_in_process = load_in_process
publish = module.publish
folder = Path(FOLDER)

def error(*args, **kwargs):
    try:
        publish(*args, **kwargs)
    except (OSError, ValueError) as error:
        return str(error)
    raise AssertionError("no error")
"""


def run_short(code: str, hub: LoopbackHub, folder: Path, token: str | None = "") -> "subprocess.CompletedProcess[str]":
    return run_python(f"FOLDER = {str(folder)!r}\n{SHORT}\n{code}", hub, token=hub.token if token == "" else token)


def test_a_full_disk_here(captioner: Path, hub: LoopbackHub) -> None:
    """The commit does not fit into the cache: it is not said to be published, and the next try goes on."""
    run_short(
        f"""
import resource
from modeling_lavis.hub import loading_check

def loads_back(source, work, name, **options):
    return (loading_check if name.startswith("remote") else Short).load_in_process(source, work, name, **options)

class Short:
    load_in_process = staticmethod(module.load_in_process)

module.load_in_process = loads_back
resource.setrlimit(resource.RLIMIT_FSIZE, ({(captioner / "model.safetensors").stat().st_size - 1}, -1))
message = error(folder, "org/captioner")
assert "does not load" in message and "File too large" in message, message
assert "The upload itself is complete; repeat the command" in message, message
resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
module.load_in_process = Short.load_in_process
assert not publish(folder, "org/captioner").changed
""",
        hub,
        captioner,
    )
    assert on_the_hub(hub, REPO) == local_files(captioner)


def test_revisions_pull_requests_and_repetitions(captioner: Path, hub: LoopbackHub) -> None:
    run_short(
        """
first = publish(folder, "org/captioner")
again = publish(folder, "org/captioner")
assert first.changed and not again.changed and again.commit == first.commit
assert [load[:2] for load in loads[-2:]] == [(str(folder), None), ("org/captioner", first.commit)]

(folder / "generation_config.json").write_text('{"max_length": 5}')
branch = publish(folder, "org/captioner", revision="v2", commit_message="Shorter captions")
assert branch.revision == "v2" and branch.changed and branch.commit != first.commit
asked = publish(folder, "org/captioner", create_pr=True)
assert asked.revision.startswith("refs/pr/") and "/discussions/" in asked.url, asked
assert publish(folder, "org/captioner", revision="main").revision == "main"
(folder / "generation_config.json").write_text('{"max_length": 6}')
more = publish(folder, "org/captioner", revision=asked.revision)
assert more.revision == asked.revision and more.changed
print(json.dumps(more.as_dict()))
""",
        hub,
        captioner,
    )
    contents = {name: hub.files(REPO, name)["generation_config.json"] for name in ("main", "v2", "refs/pr/1")}
    assert contents == {"main": b'{"max_length": 5}', "v2": b'{"max_length": 5}', "refs/pr/1": b'{"max_length": 6}'}
    assert hub.head(REPO, "v2").title == "Shorter captions"
    assert not hub.repositories[REPO].private


def test_what_the_hub_refuses(captioner: Path, hub: LoopbackHub) -> None:
    hub.create("org/public", {"notes.txt": b"mine"})
    hub.create("org/hidden", {"notes.txt": b"mine"}, private=True)
    hub.full_disk()
    run_short(
        """
message = error(folder, "org/full")
assert "cannot be uploaded to org/full" in message and "507" in message and "Repeat the command" in message, message
""",
        hub,
        captioner,
    )
    assert on_the_hub(hub, "org/full") == {}
    hub.full_disk(False)
    run_short(
        """
message = error(folder, "org/public", private=True)
assert "exists and is public" in message, message
publish(folder, "org/hidden", private=True)
assert publish(folder, "org/hidden").private  # it stays private
""",
        hub,
        captioner,
    )
    assert on_the_hub(hub, "org/public") == {"notes.txt": b"mine"}
    assert on_the_hub(hub, "org/hidden") == {**local_files(captioner), "notes.txt": b"mine"}
    run_short(
        f"""
for token in (None, "hf_wrong", {hub.read_token!r}):
    message = error(folder, "org/new", token=token)
    assert "cannot be uploaded to org/new" in message and (token is None or token not in message), message
""",
        hub,
        captioner,
        token=None,
    )
    assert "org/new" not in hub.repositories


def test_an_earlier_model_is_replaced_and_other_files_stay(captioner: Path, hub: LoopbackHub) -> None:
    other = {
        "model-00001-of-00002.safetensors": b"old",
        "model.safetensors.index.json": b"{}",
        "old_part.py": b"# old",
        "pytorch_model.bin": b"old",
        "LICENSE": b"the licence",
        "figures/example.png": b"a picture",
    }
    hub.create(REPO, other)
    run_short(
        """
report = publish(folder, "org/captioner")
print(report)
names = ("model-00001-of-00002.safetensors", "model.safetensors.index.json", "old_part.py", "pytorch_model.bin")
assert report.deleted == names, report.deleted
assert "deleted" in str(report)
""",
        hub,
        captioner,
    )
    kept = {name: other[name] for name in ("LICENSE", "figures/example.png")}
    assert on_the_hub(hub, REPO) == {**local_files(captioner), **kept}


def test_a_repository_that_changes_meanwhile(captioner: Path, hub: LoopbackHub) -> None:
    """Another user's commit between the look at the repository and the upload is not overwritten."""
    hub.create(REPO, {"notes.txt": b"mine"})
    hub.change_between_requests(REPO, {"notes.txt": b"yours"}, after="/preupload/")
    run_short(
        """
message = error(folder, "org/captioner")
assert "cannot be uploaded" in message and "Repeat the command" in message, message
assert publish(folder, "org/captioner").changed
""",
        hub,
        captioner,
    )
    assert on_the_hub(hub, REPO) == {**local_files(captioner), "notes.txt": b"yours"}


def test_results_that_differ_are_an_error(captioner_with_code: Path, hub: LoopbackHub) -> None:
    run_short(
        """
def differs(source, work, name, **options):
    loaded = load_in_process(source, work, name, **options)
    if name == wrong:
        save_file({"a": torch.zeros(2), **extra}, loaded.file)
        save_file({"a": torch.full((2,), value), **extra}, loaded.file)
    return loaded

module.load_in_process = differs
value, extra = -0.0, {}
wrong = "local-code"
message = error(folder, "org/captioner")
assert "the attached code of" in message and "a differs" in message, message
wrong = "remote-with"
message = error(folder, "org/captioner")
assert message.startswith("commit ") and "with this package" in message and "a differs" in message, message
wrong = "remote-without"
message = error(folder, "org/captioner")
assert "without this package" in message, message
value, extra = 0.0, {"b": torch.zeros(1)}
assert "only one of them gives b" in error(folder, "org/captioner")
wrong = ""
assert publish(folder, "org/captioner").compared == 1
""",
        hub,
        captioner_with_code,
    )


def test_dry_run_needs_no_network(captioner: Path, hub: LoopbackHub) -> None:
    before = local_files(captioner)
    done = run_publish(hub, captioner, REPO, "--dry-run", token=None)
    assert hub.requests == [] and local_files(captioner) == before
    assert "Nothing was uploaded (dry run)." in done.stdout and "LavisBlipForConditionalGeneration" in done.stdout
    for path in captioner.iterdir():
        assert f"{path.stat().st_size:,}  {path.name}\n" in done.stdout
    # weights that are not those of the configuration are noticed, too
    config = json.loads((captioner / "config.json").read_text())
    config["vision_config"]["num_hidden_layers"] = 3
    (captioner / "config.json").write_text(json.dumps(config))
    failed = run_publish(hub, captioner, REPO, "--dry-run", token=None, check=False)
    assert failed.returncode == 1 and hub.requests == []
    assert "does not load" in failed.stderr and "vision_model" in failed.stderr


def test_push_to_hub_of_model_and_processor(captioner: Path, hub: LoopbackHub, tmp_path: Path) -> None:
    """transformers' own way works as before; what it uploads is what `save_pretrained` writes."""
    run_python(
        f"""
import modeling_lavis
from transformers import AutoModel, AutoProcessor
AutoModel.from_pretrained({str(captioner)!r}).push_to_hub("org/pushed", private=True)
AutoProcessor.from_pretrained({str(captioner)!r}).push_to_hub("org/pushed")
model, processor = AutoModel.from_pretrained("org/pushed"), AutoProcessor.from_pretrained("org/pushed")
assert type(model) is modeling_lavis.LavisBlipForConditionalGeneration, type(model)
assert type(processor) is modeling_lavis.LavisBlipProcessor
""",
        hub,
        token=hub.token,
    )
    assert hub.repositories["org/pushed"].private
    assert {"config.json", "model.safetensors", "processor_config.json", "README.md"} <= set(hub.files("org/pushed"))


def test_conversion_publishes_what_it_wrote(hub: LoopbackHub, tmp_path: Path) -> None:
    from tests.conversion.golden_sets import GOLDENS, TOKENIZER

    source = GOLDENS / "blip_caption"
    words = [
        *("convert", "blip_caption", source / "checkpoint.pth", tmp_path / "converted"),
        *("--config", source / "config.json", "--tokenizer", TOKENIZER, "--push-to-hub", REPO, "--json", "--overwrite"),
    ]
    done = run_short(
        f"""
import os
from modeling_lavis.cli.main import main
words = {[str(word) for word in words]!r}
assert main(words) == 0
os.environ["HF_TOKEN"] = {hub.read_token!r}
assert main(words) == 1
""",
        hub,
        tmp_path,
    )
    report = json.loads(done.stdout)
    assert report["pushed_to"] == f"{hub.endpoint}/{REPO}/tree/{hub.head(REPO).oid}"
    assert on_the_hub(hub, REPO) == local_files(tmp_path / "converted")
    assert f'"{REPO}"' in on_the_hub(hub, REPO)["README.md"].decode()
    # a failed upload leaves the folder, and says what to do
    assert "The repository is complete in" in done.stderr
    assert f"modeling-lavis publish {tmp_path / 'converted'} {REPO}" in done.stderr
