"""What the loopback Hub answers: its pages, the model API and files."""

import urllib.parse
from typing import Any

from tests.hub.cards import card_problems, card_values
from tests.hub.http_server import Answer, HubError
from tests.hub.repositories import Commit, Repository, pointer, tree_entries
from tests.hub.uploads import UploadHandler


class HubHandler(UploadHandler):
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
            return self._model_api("/".join(parts[1:3]), parts[3:])
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
                    pointer_size = len(pointer(blob.sha256, blob.size))
                    sibling["lfs"] = {"sha256": blob.sha256, "size": blob.size, "pointerSize": pointer_size}
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
