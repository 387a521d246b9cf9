"""Uploads to the loopback Hub: large files and their storage, and commits."""

import base64
import fnmatch
import json
import math
import re
import secrets
import shutil
from typing import Any

from tests.hub.access import AccessHandler
from tests.hub.http_server import Answer, HubError
from tests.hub.repositories import Blob, Repository, is_large


class UploadHandler(AccessHandler):
    """Answers what uploads ask, and what the storage is asked."""

    def _storage(self) -> Answer:
        if "Authorization" in self.headers:
            raise HubError(400, "A token was sent to the storage, which is not part of the Hub")
        if self.query.get("signature") != self.hub.signature:
            raise HubError(403, "Signature missing or wrong")
        kind, _, name = "/".join(self.segments).partition("/")
        if self.command in ("GET", "HEAD") and kind == "objects":
            return Answer(
                200, self.hub.objects.path(name), {"ETag": f'"{secrets.token_hex(16)}"', "Accept-Ranges": "bytes"}
            )
        if self.command == "PUT":
            path, sha256 = self.receive(self.hub.uploads)
            if self.hub.faults.storage_is_full:
                path.unlink()
                raise HubError(507, "Insufficient storage")
            if kind == "objects":
                if sha256 != name:
                    path.unlink()
                    raise HubError(400, f"The content has sha256 {sha256}, and {name} was announced")
                path.replace(self.hub.objects.path(name))
            else:
                path.replace(self.hub.uploads / name.replace("/", "."))
            return Answer(200, b"", {"ETag": f'"{sha256}"'})
        raise HubError(404, f"The storage has no {self.command} {self.address}")

    def _preupload(self, repository: Repository, revision: str) -> Answer:
        content = self.json()
        commit = self._commit_of(repository, revision)
        ignored = [line.strip().rstrip("/") for line in content.get("gitIgnore", "").splitlines()]
        files = []
        for file in content["files"]:
            path, sample = file["path"], base64.b64decode(file["sample"])
            known = commit.files.get(path)
            names = [path, *path.split("/")]
            files.append(
                {
                    "path": path,
                    "uploadMode": "lfs" if is_large(path, sample, file["size"]) else "regular",
                    "shouldIgnore": any(
                        fnmatch.fnmatchcase(name, pattern)
                        for pattern in ignored
                        if pattern and not pattern.startswith("#")
                        for name in names
                    ),
                    "oid": known.etag if known else None,
                }
            )
        return Answer.of_json({"files": files, "commitOid": commit.oid})

    def _large_file_objects(self, parts: list[str]) -> Answer:
        name = "/".join(parts[: parts.index("info")]).removesuffix(".git")
        repository = self._writable(name)
        content = self.json()
        if parts[-1] == "verify":
            path = self.hub.objects.path(content["oid"])
            if not path.is_file() or path.stat().st_size != content["size"]:
                raise HubError(404, f"{content['oid']} was not uploaded completely")
            return Answer(200, b"OK")
        objects = []
        for item in content["objects"]:
            entry: dict[str, Any] = {"oid": item["oid"], "size": item["size"]}
            if not re.fullmatch(r"[0-9a-f]{64}", item["oid"]):
                entry["error"] = {"code": 422, "message": f"{item['oid']} is not a sha256"}
            elif not self.hub.objects.path(item["oid"]).is_file():
                verify = {"href": f"{self.hub.endpoint}/{repository.name}.git/info/lfs/objects/verify"}
                entry["actions"] = {"upload": self._upload_action(item["oid"], item["size"]), "verify": verify}
            objects.append(entry)
        return Answer.of_json({"transfer": "basic", "objects": objects})

    def _upload_action(self, oid: str, size: int) -> dict[str, Any]:
        if size <= self.hub.part_size:
            return {"href": self._signed(f"objects/{oid}")}
        upload = secrets.token_hex(8)
        count = math.ceil(size / self.hub.part_size)
        numbered = {f"{part:05d}": self._signed(f"parts/{upload}/{part}") for part in range(1, count + 1)}
        return {
            "href": f"{self.hub.endpoint}/api/complete_multipart/{upload}",
            "header": {"chunk_size": str(self.hub.part_size), **numbered},
        }

    def _complete_parts(self, upload: str) -> Answer:
        content = self.json()
        joined = self.hub.uploads / f"{upload}.joined"
        with joined.open("wb") as target:
            for part in content["parts"]:
                with (self.hub.uploads / f"{upload}.{part['partNumber']}").open("rb") as source:
                    shutil.copyfileobj(source, target)
        if self.hub.objects.sha256_of(joined) != content["oid"]:
            joined.unlink()
            raise HubError(400, f"The parts do not have sha256 {content['oid']} together")
        joined.replace(self.hub.objects.path(content["oid"]))
        for path in self.hub.uploads.glob(f"{upload}.*"):
            path.unlink()
        return Answer.of_json({})

    def _make_commit(self, repository: Repository, revision: str) -> Answer:
        lines = [json.loads(line) for line in self.body().splitlines() if line.strip()]
        header = next(line["value"] for line in lines if line["key"] == "header")
        with repository.lock:
            if revision not in repository.branches and revision not in repository.pull_requests:
                raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
            head = self._commit_of(repository, revision)
            parent = header.get("parentCommit")
            if parent and not head.oid.startswith(parent):
                raise HubError(412, "A commit has happened since. Please refresh and try again.")
            files = dict(head.files)
            for line in lines:
                self._apply(files, line["key"], line["value"])
            number = ""
            if self.query.get("create_pr"):
                revision = repository.open_pull_request(revision)
                number = revision.rpartition("/")[2]
            commit = repository.add_commit(revision, files, header["summary"], header.get("description", ""))
        url = f"{self.hub.endpoint}/{repository.name}"
        content = {
            "success": True,
            "commitOid": commit.oid,
            "commitUrl": f"{url}/commit/{commit.oid}",
            "hookOutput": "",
        }
        if number:
            content["pullRequestUrl"] = f"{url}/discussions/{number}"
        return Answer.of_json(content)

    def _apply(self, files: dict[str, Blob], key: str, value: dict[str, Any]) -> None:
        """Change the files of a commit by one line of its request."""
        path = value.get("path", "")
        if key == "file":
            files[path] = self.hub.objects.regular_blob(base64.b64decode(value["content"]))
        elif key == "lfsFile":
            if not self.hub.objects.path(value["oid"]).is_file():
                raise HubError(400, f"{path} refers to {value['oid']}, which was not uploaded")
            files[path] = self.hub.objects.large_blob(value["oid"])
        elif key == "deletedFile":
            if path not in files:
                raise HubError(400, f"{path} cannot be deleted, because it does not exist")
            del files[path]
        elif key == "deletedFolder":
            inside = [name for name in files if name.startswith(path.rstrip("/") + "/")]
            if not inside:
                raise HubError(400, f"{path} cannot be deleted, because it does not exist")
            for name in inside:
                del files[name]
        elif key != "header":
            raise HubError(400, f"The loopback Hub does not know {key} in a commit")
