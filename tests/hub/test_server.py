"""The loopback Hub as huggingface_hub sees it: uploads, downloads, references, errors, and what goes wrong between."""

import http.client
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from modeling_lavis.models.transformers_compat import httpx, major_minor
from tests.hub.repositories import GIT_ATTRIBUTES
from tests.hub.server import LoopbackHub

CARD = b"---\nlicense: mit\npipeline_tag: image-to-text\nlibrary_name: transformers\n---\n# Model\n"
FILES = {
    ".gitattributes": GIT_ATTRIBUTES,
    "README.md": CARD,
    "config.json": b'{"model_type": "albef"}',
    "empty.txt": b"",
    "images/a.dat": bytes(range(256)) * 10,  # no text, so large, and in one part
    "images/more/b.txt": "déjà vu".encode(),
    "model.safetensors": bytes(range(256)) * 40,  # large, in three parts
}


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def until_whole(cuts: int, transfer: Callable[[], Any]) -> Any:
    """A transfer that is cut so many times; huggingface_hub tries again by itself from 1.31 on, before its users do."""
    tries_again = major_minor(huggingface_hub.__version__) >= (1, 31)
    for _ in range(0 if tries_again else cuts):
        with pytest.raises((httpx.RemoteProtocolError, RuntimeError)):
            transfer()
    return transfer()


def test_a_folder_goes_up_and_comes_down(hub: LoopbackHub, api: HfApi, tmp_path: Path) -> None:
    source = write(tmp_path / "source", {name: FILES[name] for name in FILES if name != ".gitattributes"})
    assert api.create_repo("org/name").repo_id == "org/name"
    first = api.upload_folder(repo_id="org/name", folder_path=source, commit_message="Everything")
    assert hub.files("org/name") == FILES
    assert first.oid == hub.head("org/name").oid and hub.head("org/name").title == "Everything"

    puts = [request for request in hub.requests if request.method == "PUT"]
    assert sorted(request.received for request in puts) == [2240, 2560, 4000, 4000]
    assert {(request.host, request.token) for request in puts} == {("localhost", False)}
    assert len(hub.requested("POST", "/lfs/objects/verify")) == 2  # once for every large file

    folder = api.snapshot_download("org/name", cache_dir=tmp_path / "cache")
    assert {name: (Path(folder) / name).read_bytes() for name in FILES} == FILES
    assert Path(folder).name == first.oid
    gets = [request for request in hub.requests if request.method == "GET" and "/objects/" in request.path]
    assert {(request.host, request.token) for request in gets} == {("localhost", False)} and len(gets) == 2

    before = len(hub.requests)
    again = api.upload_folder(repo_id="org/name", folder_path=source)  # nothing has changed
    assert again.oid == first.oid and not any(request.method == "PUT" for request in hub.requests[before:])

    information = api.model_info("org/name", files_metadata=True)
    expected = {"pipeline_tag": "image-to-text", "library_name": "transformers", "sha": first.oid}
    assert {name: getattr(information, name) for name in expected} == expected
    sizes = {sibling.rfilename: sibling.size for sibling in information.siblings or []}
    assert sizes == {name: len(content) for name, content in FILES.items()}
    assert api.whoami()["name"] == hub.user
    api.delete_repo("org/name")
    assert not api.repo_exists("org/name") and hub.repositories == {}


def test_commits_branches_tags_and_pull_requests(hub: LoopbackHub, api: HfApi) -> None:
    hub.create("org/name", {"a.txt": b"1", "sub/b.txt": b"2", "sub/c.bin": b"3"})
    start = hub.head("org/name").oid
    api.create_tag("org/name", tag="v1", tag_message="first")
    api.create_branch("org/name", branch="next/one")
    change = [CommitOperationAdd("a.txt", b"new"), CommitOperationDelete("sub/")]
    done = api.create_commit("org/name", change, commit_message="Change", revision="next/one", parent_commit=start)
    assert hub.files("org/name", "next/one") == {".gitattributes": GIT_ATTRIBUTES, "a.txt": b"new"}
    assert hub.files("org/name", "v1") == hub.files("org/name") == hub.files("org/name", start)
    assert api.list_repo_files("org/name", revision="next/one") == [".gitattributes", "a.txt"]
    assert [entry.title for entry in api.list_repo_commits("org/name", revision="next/one")] == [
        "Change",
        "Update",
        "initial commit",
    ]
    with pytest.raises(HfHubHTTPError, match="412"):
        api.create_commit(
            "org/name",
            [CommitOperationAdd("a.txt", b"other")],
            commit_message="Late",
            revision="next/one",
            parent_commit=start,
        )
    proposed = api.create_commit(
        "org/name", [CommitOperationAdd("a.txt", b"proposed")], commit_message="Proposal", create_pr=True
    )
    assert (proposed.pr_num, proposed.pr_revision) == (1, "refs/pr/1")
    assert hub.files("org/name")["a.txt"] == b"1" and hub.files("org/name", "refs/pr/1")["a.txt"] == b"proposed"
    api.upload_file(repo_id="org/name", path_in_repo="more.txt", path_or_fileobj=b"x", revision="refs/pr/1")
    assert set(hub.files("org/name", "refs/pr/1")) - set(hub.files("org/name")) == {"more.txt"}

    references = api.list_repo_refs("org/name", include_pull_requests=True)
    assert {branch.name: branch.target_commit for branch in references.branches} == {
        "main": start,
        "next/one": done.oid,
    }
    assert {tag.name: tag.target_commit for tag in references.tags} == {"v1": start}
    assert [request.ref for request in references.pull_requests or []] == ["refs/pr/1"]
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_branch("org/name", branch="next/one")
    api.create_branch("org/name", branch="next/one", exist_ok=True)
    api.delete_branch("org/name", branch="next/one")
    api.delete_tag("org/name", tag="v1")
    assert hub.repositories["org/name"].branches == {"main": start} and hub.repositories["org/name"].tags == {}


def test_trees_come_in_pages(hub: LoopbackHub, api: HfApi) -> None:
    hub.page_size = 3
    hub.create("org/name", {**{f"sub/{number}.txt": b"x" for number in range(5)}, "model.bin": b"large"})
    entries = list(api.list_repo_tree("org/name", recursive=True, expand=True))
    assert [entry.path for entry in entries] == [
        ".gitattributes",
        "model.bin",
        "sub",
        *(f"sub/{number}.txt" for number in range(5)),
    ]
    assert len(hub.requested("GET", "/tree/main")) == 3
    large: Any = entries[1]
    assert (large.size, large.lfs.size, large.lfs.pointer_size) == (5, 5, 126)
    assert [entry.path for entry in api.list_repo_tree("org/name")] == [".gitattributes", "model.bin", "sub"]
    assert [entry.path for entry in api.get_paths_info("org/name", ["model.bin", "none"])] == ["model.bin"]
    with pytest.raises(EntryNotFoundError):
        list(api.list_repo_tree("org/name", "none"))


def test_errors_have_their_codes(hub: LoopbackHub, api: HfApi, tmp_path: Path) -> None:
    hub.create("org/open", {"a.txt": b"1"})
    hub.create("org/secret", {"a.txt": b"1"}, private=True)
    place = {"cache_dir": tmp_path / "cache", "filename": "a.txt"}
    with pytest.raises(EntryNotFoundError):
        api.hf_hub_download("org/open", **{**place, "filename": "none"})
    with pytest.raises(RevisionNotFoundError):
        api.hf_hub_download("org/open", revision="none", **place)
    for token in (hub.stranger_token, False):  # what one may not see does not exist
        for name in ("org/secret", "org/none"):
            with pytest.raises(RepositoryNotFoundError):
                api.hf_hub_download(name, token=token, **place)
    with pytest.raises(HfHubHTTPError, match="401") as caught:
        api.hf_hub_download("org/secret", token="hf_wrong", **place)
    assert not isinstance(caught.value, RepositoryNotFoundError)
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        api.whoami(token="hf_wrong")
    assert Path(api.hf_hub_download("org/secret", token=hub.read_token, **place)).read_bytes() == b"1"
    with pytest.raises(HfHubHTTPError, match="403"):
        api.upload_file(repo_id="org/open", path_in_repo="b", path_or_fileobj=b"x", token=hub.read_token)
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo("org/open")
    with pytest.raises(RepositoryNotFoundError):
        api.upload_file(repo_id="org/none", path_in_repo="b", path_or_fileobj=b"x")
    with pytest.raises(ValueError, match="duplicated mapping key: license"):
        api.upload_file(
            repo_id="org/open", path_in_repo="README.md", path_or_fileobj=b"---\nlicense: mit\nlicense: mit\n---\n"
        )
    assert set(hub.files("org/open")) == {".gitattributes", "a.txt"}


def get(address: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """One request, without following a redirect."""
    host, _, path = address.removeprefix("http://").partition("/")
    connection = http.client.HTTPConnection(host)
    connection.request("GET", f"/{path}", headers=headers)
    response = connection.getresponse()
    result = response.status, dict(response.getheaders()), response.read()
    connection.close()
    return result


def test_large_files_are_elsewhere_and_take_ranges(hub: LoopbackHub) -> None:
    hub.create("org/name", {"model.bin": b"0123456789", "small.txt": b"abcdef"})
    status, headers, _ = get(f"{hub.endpoint}/org/name/resolve/main/model.bin")
    assert status == 302 and headers["Location"].startswith(f"{hub.storage_endpoint}/objects/")
    assert headers["X-Repo-Commit"] == hub.head("org/name").oid
    assert headers["X-Linked-Size"] == "10" and len(headers["X-Linked-Etag"]) == 66
    for address, whole in (
        (headers["Location"], b"0123456789"),
        (f"{hub.endpoint}/org/name/resolve/main/small.txt", b"abcdef"),
    ):
        assert get(address)[::2] == (200, whole)
        status, partly, body = get(address, Range="bytes=2-")
        assert (status, partly["Content-Range"], body) == (206, f"bytes 2-{len(whole) - 1}/{len(whole)}", whole[2:])
        assert get(address, Range="bytes=1-3")[::2] == (206, whole[1:4])
        assert get(address, Range="bytes=-2")[::2] == (206, whole[-2:])
        assert get(address, Range="bytes=10-")[0] == 416
    assert get(headers["Location"], Authorization=f"Bearer {hub.token}")[0] == 400
    assert get(headers["Location"].partition("?")[0])[0] == 403
    status, _, body = get(f"{hub.endpoint}/api/nothing")
    assert status == 404 and "has no GET /api/nothing" in json.loads(body)["error"]


def test_a_download_goes_on_where_it_was_cut(hub: LoopbackHub, api: HfApi, tmp_path: Path) -> None:
    content = bytes(range(256)) * 4000
    hub.create("org/name", {"model.bin": content})
    hub.cut(after_bytes=300_000, direction="download", times=2, match="model.bin")
    path = until_whole(2, lambda: api.hf_hub_download("org/name", "model.bin", cache_dir=tmp_path))
    assert Path(path).read_bytes() == content
    ranges = [request.range for request in hub.requested("GET", "/objects/")]
    assert ranges == [None, "bytes=300000-", "bytes=600000-"]

    hub.cut(after_bytes=0, times=100, match="model.bin")
    with pytest.raises(Exception, match="peer closed connection|Server disconnected"):
        api.hf_hub_download("org/name", "model.bin", cache_dir=tmp_path / "second")
    left = [path for path in (tmp_path / "second").rglob("*") if path.is_file() and path.stat().st_size > 1000]
    assert left == []


def test_an_upload_that_was_cut_is_taken_up_again(hub: LoopbackHub, api: HfApi, tmp_path: Path) -> None:
    hub.part_size = 1 << 30
    source = write(tmp_path / "source", {"a.bin": b"a" * 200_000, "b.bin": b"b" * 200_000, "config.json": b"{}"})
    hub.create("org/name")
    hub.cut(after_bytes=100_000, direction="upload", times=1)
    until_whole(1, lambda: api.upload_folder(repo_id="org/name", folder_path=source))
    assert hub.files("org/name")["a.bin"] == b"a" * 200_000

    hub.create("org/second")
    write(source, {"a.bin": b"c" * 200_000, "b.bin": b"d" * 200_000})
    hub.cut(direction="upload", times=100, match="/commit/")
    with pytest.raises(Exception, match="disconnected|reset|closed"):
        api.upload_folder(repo_id="org/second", folder_path=source)
    assert set(hub.files("org/second")) == {".gitattributes"}  # all of a commit or nothing
    hub.faults.cuts.clear()
    before = len(hub.requests)
    api.upload_folder(repo_id="org/second", folder_path=source)
    assert not any(request.method == "PUT" for request in hub.requests[before:])  # the contents are there
    assert set(hub.files("org/second")) == {".gitattributes", "a.bin", "b.bin", "config.json"}


def test_a_full_storage_and_a_busy_hub(hub: LoopbackHub, api: HfApi, tmp_path: Path) -> None:
    hub.create("org/name", {"a.txt": b"1"})
    hub.full_disk()
    with pytest.raises(Exception, match="model.bin") as caught:
        api.upload_file(repo_id="org/name", path_in_repo="model.bin", path_or_fileobj=b"large")
    assert "507" in str(caught.value.__cause__)
    assert "model.bin" not in hub.files("org/name")
    hub.full_disk(False)
    hub.refuse(503, match="/objects/batch", times=2)
    api.upload_file(repo_id="org/name", path_in_repo="model.bin", path_or_fileobj=b"large")
    assert hub.files("org/name")["model.bin"] == b"large"
    hub.refuse(500, match="resolve", times=100)
    with pytest.raises(LocalEntryNotFoundError):
        api.hf_hub_download("org/name", "a.txt", cache_dir=tmp_path)


def test_a_snapshot_is_of_one_commit(hub: LoopbackHub, api: HfApi, tmp_path: Path) -> None:
    hub.create("org/name", {"config.json": b"old", "model.bin": b"old"})
    old = hub.head("org/name").oid
    hub.change_between_requests("org/name", {"config.json": b"new", "model.bin": b"new"}, after="/revision/main")
    folder = Path(api.snapshot_download("org/name", cache_dir=tmp_path))
    assert folder.name == old and {(folder / name).read_bytes() for name in ("config.json", "model.bin")} == {b"old"}
    assert Path(api.snapshot_download("org/name", cache_dir=tmp_path)).name == hub.head("org/name").oid != old
