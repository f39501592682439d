"""Weights on the Hugging Face Hub, against a server on loopback that speaks its protocol."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
import torch

import scfoundry as sf
from scfoundry.model._folder import CARD_FILE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

GENES = ["ENSG00000198851", "ENSG00000111640", "ENSG00000156738"]
TOKEN = "hf_may_write"  # noqa: S105
COMMIT = "a" * 40


class Hub(ThreadingHTTPServer):
    """Repositories in memory, name -> file -> content."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.served: list[str] = []


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def say(self, found: object, status: int = 200) -> None:
        self.answer(status, json.dumps(found).encode(), Content_Type="application/json")

    def files(self, name: str) -> dict[str, bytes] | None:
        files = self.server.repositories.get(name)
        if files is None:
            self.answer(401, X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")
        return files

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if at := re.fullmatch(r"/api/models/([^/]+/[^/]+)(/revision/(\w+))?", path):
            if (files := self.files(at[1])) is not None:
                if at[3] not in (None, "main", COMMIT):
                    return self.answer(404, X_Error_Code="RevisionNotFound", X_Error_Message="Invalid rev id")
                siblings = [{"rfilename": file} for file in files]
                self.say({"_id": "1", "id": at[1], "sha": COMMIT, "siblings": siblings, "private": False, "tags": []})
        elif at := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/\w+", path):
            if (files := self.files(at[1])) is not None:
                self.say(
                    [
                        {"type": "file", "path": file, "size": len(body), "oid": hashlib.sha256(body).hexdigest()}
                        for file, body in files.items()
                    ]
                )
        elif at := re.fullmatch(r"/([^/]+/[^/]+)/resolve/\w+/(.+)", path):
            body = self.server.repositories[at[1]].get(at[2])
            if body is None:
                return self.answer(404, X_Error_Code="EntryNotFound", X_Error_Message="Entry not found")
            if self.command == "GET":
                self.server.served.append(at[2])
            etag = f'"{hashlib.sha256(body).hexdigest()}"'
            self.answer(200, body, ETag=etag, X_Repo_Commit=COMMIT, Accept_Ranges="bytes")
        else:
            self.answer(404)
        return None

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.say({"error": "Invalid credentials"}, status=403)
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            known = name in self.server.repositories
            self.server.repositories.setdefault(name, {})
            return self.say({"url": f"{endpoint(self.server)}/{name}", "name": name}, status=409 if known else 200)
        if at := re.fullmatch(r"/api/models/(.+)/preupload/main", self.path):
            asked = [file["path"] for file in json.loads(body)["files"]]
            return self.say(
                {"files": [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in asked]}
            )
        if at := re.fullmatch(r"/api/models/(.+)/commit/main", self.path.partition("?")[0]):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    self.server.repositories[at[1]][line["value"]["path"]] = content
            page = f"{endpoint(self.server)}/{at[1]}"
            return self.say({"commitUrl": f"{page}/commit/{COMMIT}", "commitOid": COMMIT, "success": True})
        return self.say({"valid": True}) if self.path == "/api/validate-yaml" else self.answer(404)


def endpoint(server: Hub) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """The hub, as the library finds it, and an empty cache."""
    found = Hub()
    thread = threading.Thread(target=found.serve_forever, daemon=True)
    thread.start()
    # What the environment variable HF_ENDPOINT sets when the library is imported.
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint(found))
    template = f"{endpoint(found)}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(sf.settings, "cache_dir", tmp_path / "cache")
    yield found
    found.shutdown()
    thread.join()


@pytest.fixture
def model() -> sf.model.Celler:
    return sf.model.Celler(genes=GENES, n_hidden=16, n_layers=1, n_heads=2, n_intermediate=16)


def test_what_was_pushed_loads_anywhere(server: Hub, model: sf.model.Celler) -> None:
    page = model.push_to_hub("lab/liver", token=TOKEN, licence="MIT", trained_on="12 cells")
    assert page == f"{endpoint(server)}/lab/liver"
    loaded = sf.model.load_pretrained("hf://lab/liver")
    for name, tensor in model.module.state_dict().items():
        assert torch.equal(tensor, loaded.module.state_dict()[name]), name
    assert loaded.genes == model.genes
    assert {"weights": "liver", "licence": "MIT", "trained_on": "12 cells"}.items() <= loaded.provenance.items()


def test_the_card_says_what_the_hub_reads(server: Hub, model: sf.model.Celler) -> None:
    model.push_to_hub("lab/liver", token=TOKEN, licence="MIT", card="# Liver\n")
    card = server.repositories["lab/liver"][CARD_FILE].decode()
    assert card.startswith('---\nlibrary_name: "scfoundry"\nlicense: "mit"\ntags: ["single-cell"')
    assert card.endswith("---\n\n# Liver\n")
    model.push_to_hub("lab/liver", token=TOKEN, licence="our own")
    assert b'license: "other"\n' in server.repositories["lab/liver"][CARD_FILE]
    assert b'license_name: "our own"\n' in server.repositories["lab/liver"][CARD_FILE]


def test_files_are_fetched_once_and_code_never(server: Hub, model: sf.model.Celler) -> None:
    model.push_to_hub("lab/liver", token=TOKEN)
    server.repositories["lab/liver"]["modeling.py"] = b"raise SystemExit"
    sf.model.Celler.from_pretrained("hf://lab/liver")
    fetched = sorted(server.served)
    assert fetched == sorted(name for name in server.repositories["lab/liver"] if name != "modeling.py")
    sf.model.Celler.from_pretrained("hf://lab/liver")
    assert sorted(server.served) == fetched


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("hf://lab/kidney", FileNotFoundError, "no repository 'lab/kidney' that you may read"),
        ("hf://lab/liver@v9", FileNotFoundError, "has no revision 'v9'. Leave it out: hf://lab/liver"),
        ("hf://lab/liver/x", ValueError, "looks like hf://owner/name"),
    ],
)
def test_what_is_not_there(
    source: str, error: type[Exception], message: str, server: Hub, model: sf.model.Celler
) -> None:
    model.push_to_hub("lab/liver", token=TOKEN)
    with pytest.raises(error, match=re.escape(message)):
        sf.model.load_pretrained(source)


def test_a_token_that_may_not_write(server: Hub, model: sf.model.Celler) -> None:
    with pytest.raises(PermissionError, match=r"A token that may write is needed"):
        model.push_to_hub("lab/liver", token="hf_wrong")  # noqa: S106
    assert not server.repositories


def test_a_hub_out_of_reach(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(ConnectionError, match=r"cannot be reached for 'lab/liver'.*from_pretrained\(folder\)"):
        sf.model.load_pretrained("hf://lab/liver")
