"""Who asks the loopback Hub, and what they may see and change."""

import urllib.parse

from tests.hub.http_server import HttpHandler, HubError
from tests.hub.repositories import Commit, Repository


class AccessHandler(HttpHandler):
    """Finds the repository of a request, if the token allows it."""

    role: str | None = None

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

    def _signed(self, path: str, **query: str) -> str:
        """An address in the storage, which serves no other."""
        return (
            f"{self.hub.storage_endpoint}/{path}?{urllib.parse.urlencode({**query, 'signature': self.hub.signature})}"
        )
