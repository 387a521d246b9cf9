"""What the loopback Hub answers: the model API, files, the storage of large files, and large file uploads."""

import base64
import fnmatch
import json
import math
import re
import secrets
import shutil
import urllib.parse
from typing import Any

from tests.hub.cards import card_problems, card_values
from tests.hub.http_server import Answer, HttpHandler, HubError
from tests.hub.repositories import Blob, Commit, Repository, is_large, tree_entries


class HubHandler(HttpHandler):
    """Routes of the Hub on 127.0.0.1, and of its storage on localhost."""

    def answer(self) -> Answer:
        if self.host == "localhost":
            return self._storage()
        self.role = self._role()
        parts = self.segments
        if parts[:1] == ["api"]:
            return self._api(parts[1:])
        if parts == [""]:
            return Answer(200, b"loopback Hub")
        if "/info/lfs/objects/" in self.path:
            return self._large_file_objects(parts)
        if "resolve" in parts[1:3]:
            at = parts.index("resolve", 1)
            repository = self._repository("/".join(parts[:at]))
            return self._resolve(repository, parts[at + 1], "/".join(parts[at + 2 :]))
        raise HubError(404, f"The loopback Hub has no page {self.address}")

    # ------------------------------------------------------------------ who asks, for what

    def _role(self) -> str | None:
        """`"writer"`, `"reader"` or `"stranger"`; `None` without a token."""
        header = self.headers.get("Authorization")
        if header is None:
            return None
        roles = {self.hub.token: "writer", self.hub.read_token: "reader", self.hub.stranger_token: "stranger"}
        role = roles.get(header.removeprefix("Bearer "))
        if role is None:
            raise HubError(401, "Invalid credentials in Authorization header")
        return role

    def _repository(self, name: str) -> Repository:
        repository = self.hub.repositories.get(name)
        if repository is None or (repository.private and self.role not in ("writer", "reader")):
            # the same for a private repository as for none, so that names stay secret
            if self.role is None:
                raise HubError(401, "Repository not found", "RepoNotFound")
            raise HubError(404, "Repository not found", "RepoNotFound")
        return repository

    def _writable(self, name: str) -> Repository:
        repository = self._repository(name)
        self._require_writer()
        return repository

    def _require_writer(self) -> None:
        if self.role is None:
            raise HubError(401, "Invalid username or password.")
        if self.role != "writer":
            raise HubError(403, "You don't have the rights to write here with this token")

    def _commit_of(self, repository: Repository, revision: str) -> Commit:
        commit = repository.find(revision)
        if commit is None:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    # ------------------------------------------------------------------ API

    def _api(self, parts: list[str]) -> Answer:
        if parts == ["whoami-v2"]:
            return self._whoami()
        if parts == ["validate-yaml"]:
            errors, warnings = card_problems(self.json().get("content", ""))
            return Answer.of_json({"errors": errors, "warnings": warnings}, 400 if errors else 200)
        if parts[:1] == ["complete_multipart"]:
            return self._complete_parts(parts[1])
        if parts[:1] == ["repos"]:
            return self._manage(parts[1])
        if parts[:1] == ["models"]:
            named = 3 if "/".join(parts[1:3]) in self.hub.repositories or len(parts) > 2 else 2
            return self._model_api("/".join(parts[1:named]), parts[named:])
        raise HubError(404, f"The loopback Hub has no {self.command} {self.address}")

    def _whoami(self) -> Answer:
        if self.role is None:
            raise HubError(401, "Invalid username or password.")
        name = "stranger" if self.role == "stranger" else self.hub.user
        access = "read" if self.role == "reader" else "write"
        token = {"displayName": "test", "role": access}
        return Answer.of_json(
            {
                "type": "user",
                "id": name,
                "name": name,
                "orgs": [],
                "auth": {"type": "access_token", "accessToken": token},
            }
        )

    def _manage(self, action: str) -> Answer:
        self._require_writer()
        content = self.json()
        if action == "move":
            repository = self._writable(content["fromRepo"])
            with self.hub.lock:
                self.hub.repositories[content["toRepo"]] = self.hub.repositories.pop(repository.name)
                repository.name = content["toRepo"]
            return Answer(200, b"OK")
        if content.get("type") not in (None, "model"):
            raise HubError(400, "The loopback Hub has models only")
        name = f"{content.get('organization') or self.hub.user}/{content['name']}"
        if action == "delete" and self.command == "DELETE":
            self._writable(name)
            with self.hub.lock:
                del self.hub.repositories[name]
            return Answer(200, b"OK")
        if action != "create":
            raise HubError(404, f"The loopback Hub has no {self.command} {self.address}")
        url = f"{self.hub.endpoint}/{name}"
        private = content.get("visibility") == "private" or bool(content.get("private"))
        try:
            self.hub.create(name, private=private)
        except ValueError:
            return Answer.of_json(
                {"error": "You already created this model repo", "url": url},
                409,
                X_Error_Message="You already created this model repo",
            )
        return Answer.of_json({"url": url, "name": name, "id": name})

    def _model_api(self, name: str, rest: list[str]) -> Answer:
        what, argument = (rest[0], rest[1:]) if rest else ("revision", [])
        revision = argument[0] if argument else "main"
        if what == "preupload":
            return self._preupload(self._writable(name), revision)
        if what == "commit":
            return self._make_commit(self._writable(name), revision)
        if what in ("branch", "tag"):
            return self._reference(self._writable(name), what, revision)
        if what == "settings":
            repository = self._writable(name)
            repository.private = self.json().get("visibility") == "private"
            return Answer.of_json({"private": repository.private})
        if what == "discussions" and argument[1:] == ["merge"]:
            repository = self._writable(name)
            repository.branches["main"] = repository.pull_requests[f"refs/pr/{revision}"]
            return Answer.of_json({})
        repository = self._repository(name)
        if what == "auth-check":
            return Answer(200, b"OK")
        if what == "refs":
            return Answer.of_json(_references(repository))
        if what == "discussions":
            return Answer.of_json({"discussions": [], "count": 0, "start": 0})
        commit = self._commit_of(repository, revision)
        if what == "revision":
            return self._information(repository, commit)
        if what == "tree":
            return self._tree(commit, "/".join(argument[1:]).strip("/"))
        if what == "paths-info":
            return self._paths_information(commit)
        if what == "commits":
            return Answer.of_json([_commit_entry(entry) for entry in repository.history(commit)])
        if what == "resolve":
            return self._resolve(repository, revision, "/".join(argument[1:]))
        raise HubError(404, f"The loopback Hub has no {self.command} {self.address}")

    def _information(self, repository: Repository, commit: Commit) -> Answer:
        siblings: list[dict[str, Any]] = []
        for path, blob in commit.files.items():
            sibling: dict[str, Any] = {"rfilename": path}
            if self.query.get("blobs"):
                sibling.update(size=blob.size, blobId=blob.oid)
                if blob.large:
                    sibling["lfs"] = {"sha256": blob.sha256, "size": blob.size, "pointerSize": 130}
            siblings.append(sibling)
        card = card_values(self.hub.objects.read(commit.files["README.md"])) if "README.md" in commit.files else {}
        content: dict[str, Any] = {
            "_id": commit.oid[:24],
            "id": repository.name,
            "modelId": repository.name,
            "author": repository.name.partition("/")[0],
            "sha": commit.oid,
            "lastModified": commit.date,
            "createdAt": commit.date,
            "private": repository.private,
            "gated": False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "siblings": siblings,
            "cardData": card,
        }
        for name in ("pipeline_tag", "library_name"):
            if name in card:
                content[name] = card[name]
        return Answer.of_json(content)

    def _tree(self, commit: Commit, folder: str) -> Answer:
        entries = tree_entries(commit, folder, self.query.get("recursive", "").lower() in ("true", "1"))
        if folder and not entries:
            raise HubError(404, f"{folder} does not exist", "EntryNotFound", X_Repo_Commit=commit.oid)
        if self.query.get("expand", "").lower() in ("true", "1"):
            last = {"id": commit.oid, "title": commit.title, "date": commit.date}
            entries = [{**entry, "lastCommit": last} for entry in entries]
        start = int(self.query.get("cursor", 0))
        stop = start + self.hub.page_size
        answer = Answer.of_json(entries[start:stop])
        if stop < len(entries):
            query = urllib.parse.urlencode({**self.query, "cursor": stop})
            answer.headers["Link"] = f'<{self.hub.endpoint}{self.path.partition("?")[0]}?{query}>; rel="next"'
        return answer

    def _paths_information(self, commit: Commit) -> Answer:
        wanted = urllib.parse.parse_qs(self.body().decode()).get("paths", [])
        entries = [entry for entry in tree_entries(commit, "", recursive=True) if entry["path"] in wanted]
        return Answer.of_json(entries)

    def _reference(self, repository: Repository, kind: str, name: str) -> Answer:
        content = self.json() if self.command == "POST" else {}
        with repository.lock:
            if kind == "branch":
                references, start = repository.branches, content.get("startingPoint", "main")
            else:  # the address of a new tag has the revision, that of an old one its name
                references, start = repository.tags, name
                name = content.get("tag", name)
            if self.command == "DELETE":
                if name not in references or (kind, name) == ("branch", "main"):
                    raise HubError(404, f"There is no {kind} {name} to delete", "RevisionNotFound")
                del references[name]
            elif name in references:
                raise HubError(409, f"Reference already exists: {name}")
            else:
                references[name] = self._commit_of(repository, start).oid
        return Answer(200, b"OK")

    # ------------------------------------------------------------------ files

    def _resolve(self, repository: Repository, revision: str, path: str) -> Answer:
        commit = self._commit_of(repository, revision)
        blob = commit.files.get(path)
        if blob is None:
            raise HubError(404, "Entry not found", "EntryNotFound", X_Repo_Commit=commit.oid)
        headers = {"X-Repo-Commit": commit.oid, "ETag": f'"{blob.etag}"', "Accept-Ranges": "bytes"}
        if not blob.large:
            return Answer(200, self.hub.objects.path(blob.sha256), headers)
        linked = {"X-Linked-Etag": f'"{blob.etag}"', "X-Linked-Size": str(blob.size)}
        location = self._signed(f"objects/{blob.sha256}", filename=path.rpartition("/")[2])
        return Answer(302, b"", {**headers, **linked, "Location": location})

    def _signed(self, path: str, **query: str) -> str:
        """An address in the storage, which serves no other."""
        return (
            f"{self.hub.storage_endpoint}/{path}?{urllib.parse.urlencode({**query, 'signature': self.hub.signature})}"
        )

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

    # ------------------------------------------------------------------ uploads

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
                entry["error"] = {"code": 422, "message": f"{item['oid']} is no sha256"}
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


def _references(repository: Repository) -> dict[str, list[dict[str, str]]]:
    def entries(references: dict[str, str], prefix: str) -> list[dict[str, str]]:
        return [
            {"name": name, "ref": f"{prefix}{name}", "targetCommit": oid} for name, oid in sorted(references.items())
        ]

    return {
        "branches": entries(repository.branches, "refs/heads/"),
        "tags": entries(repository.tags, "refs/tags/"),
        "converts": [],
        "pullRequests": entries(repository.pull_requests, ""),
    }


def _commit_entry(commit: Commit) -> dict[str, Any]:
    return {
        "id": commit.oid,
        "title": commit.title,
        "message": commit.message,
        "date": commit.date,
        "authors": [{"user": "tester"}],
    }


__all__ = ["HubHandler"]
