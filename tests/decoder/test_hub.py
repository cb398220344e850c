"""A small server speaks what is asked of the hub, and the real fetching is done from it."""

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from lastblock.decoder import hub
from lastblock.decoder.catalog import MODELS
from lastblock.decoder.loading import load_decoder
from lastblock.errors import DownloadError, WeightsError
from lastblock.tokenization.tokenizer import Tokenizer

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "somebody/tiny"


class Hub:
    """What the server has, what it was asked, and how it misbehaves."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.asked: list[tuple[str, str, str | None]] = []  # method, file, range
        self.served = 0  # bytes of weights
        self.stop_after: int | None = None  # then send no more, and keep the line open
        self.wrong: set[str] = set()  # files that are sent with a byte changed
        self.commit = COMMIT

    def etag(self, name: str) -> str:
        data = self.files[name]
        if name.endswith(".safetensors"):
            return hashlib.sha256(data).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        if path.startswith(f"/api/models/{REPOSITORY}"):
            body = {"id": REPOSITORY, "sha": self.hub.commit}
            body["siblings"] = [{"rfilename": name} for name in self.hub.files]
            return self._send(json.dumps(body).encode(), {"Content-Type": "application/json"})
        name = path.rpartition("/")[2]
        if not path.startswith(f"/{REPOSITORY}/resolve/") or name not in self.hub.files:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        wanted = self.headers.get("Range")
        self.hub.asked.append((self.command, name, wanted))
        data = self.hub.files[name]
        headers = {"ETag": f'"{self.hub.etag(name)}"', "X-Repo-Commit": self.hub.commit}
        if name in self.hub.wrong:
            data = data[:-1] + bytes([data[-1] ^ 1])
        return self._send(data, headers, wanted, name)

    def _send(self, data, headers, wanted=None, name="") -> None:
        start = int(wanted.removeprefix("bytes=").partition("-")[0]) if wanted else 0
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        if self.command == "HEAD":
            return
        for i in range(start, len(data), 4096):
            if name.endswith(".safetensors"):
                while self.hub.stop_after is not None and self.hub.served >= self.hub.stop_after:
                    time.sleep(0.02)
                self.hub.served += len(data[i : i + 4096])
            self.wfile.write(data[i : i + 4096])


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, address: object) -> None:
        pass  # a killed client


@pytest.fixture
def files(tmp_path, reference):
    """A repository as hubs hold it, with much that is not wanted."""
    folder = tmp_path / "made"
    reference("llama", vocab_size=300, hidden_size=64).save_pretrained(folder)
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    found["tokenizer.json"] = _tokenizer_json(tmp_path)
    found |= {"pytorch_model.bin": b"code", "modeling.py": b"code", "README.md": b"#"}
    return found


def _tokenizer_json(folder: Path) -> bytes:
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, pre_tokenizers

    letters = pre_tokenizers.ByteLevel.alphabet()
    vocabulary = {letter: i for i, letter in enumerate([*sorted(letters), "<|endoftext|>"])}
    backend = Backend(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.save(str(folder / "t.json"))
    return (folder / "t.json").read_bytes()


@pytest.fixture
def served(files, tmp_path, monkeypatch):
    """The hub that HF_ENDPOINT points to; caches below tmp_path."""
    state = Hub(files)
    handler = type("H", (Handler,), {"hub": state})
    server = Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("LASTBLOCK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield state
    state.stop_after = None
    server.shutdown()
    server.server_close()
    thread.join()


def test_fetches_what_is_read_and_nothing_else(served, hidden_states):
    files = hub.resolve(REPOSITORY)
    assert files.revision == COMMIT
    names = {name for _, name, _ in served.asked}
    assert names == {"config.json", "tokenizer.json", "model.safetensors"}
    decoder = load_decoder(files.folder)
    ids = Tokenizer.from_pretrained(files.folder).encode_batch(["hello"])[0]
    assert hidden_states(decoder, torch.from_numpy(ids)[None].long())[-1].isfinite().all()


def test_second_start_asks_nothing_and_keeps_the_commit(served, monkeypatch):
    first = hub.resolve(REPOSITORY)
    served.asked.clear()
    served.commit = "f" * 40
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    assert hub.resolve(REPOSITORY) == first
    assert not served.asked


def test_offline_loads_what_is_here_and_refuses_the_rest(served, monkeypatch):
    first = hub.resolve(REPOSITORY)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert hub.resolve(REPOSITORY) == first
    with pytest.raises(DownloadError, match="HF_HUB_OFFLINE"):
        hub.resolve("somebody/else")


def test_a_file_that_changed_size_is_fetched_anew(served):
    folder = hub.resolve(REPOSITORY).folder
    (folder / "model.safetensors").write_bytes(b"short")
    hub.resolve(REPOSITORY)
    assert (folder / "model.safetensors").read_bytes() == served.files["model.safetensors"]


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_hash_that_does_not_match_is_refused(served, name):
    served.wrong.add(name)
    with pytest.raises(DownloadError, match=r"hash .* the hub says"):
        hub.resolve(REPOSITORY)
    cache = Path(os.environ["LASTBLOCK_CACHE"])
    assert not list(cache.rglob(f"{name}*"))
    served.wrong.clear()
    assert load_decoder(hub.resolve(REPOSITORY).folder).depth == 3


def test_killed_in_the_middle_it_resumes(served):
    size = len(served.files["model.safetensors"])
    served.stop_after = size // 2
    child = subprocess.Popen(
        [sys.executable, "-c", f"from lastblock.decoder import hub; hub.resolve('{REPOSITORY}')"],
        env=os.environ | {"TQDM_DISABLE": "1"},
    )
    deadline = time.monotonic() + 60
    while served.served < size // 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)  # what was sent is written
    child.kill()
    child.wait()
    cache = Path(os.environ["LASTBLOCK_CACHE"])
    (part,) = cache.rglob("*.part-*")
    assert not list(cache.rglob("source.json"))
    there = part.stat().st_size
    assert 0 < there < size

    served.stop_after = None
    served.asked.clear()
    folder = hub.resolve(REPOSITORY).folder
    gets = [(name, wanted) for method, name, wanted in served.asked if method == "GET"]
    assert gets == [("model.safetensors", f"bytes={there}-")]
    assert (folder / "model.safetensors").read_bytes() == served.files["model.safetensors"]


def test_shards_are_fetched_with_their_index(served, tmp_path, reference):
    model = reference("llama", vocab_size=300, hidden_size=64)
    model.save_pretrained(tmp_path / "shards", max_shard_size="100KB")
    served.files.pop("model.safetensors")
    served.files |= {path.name: path.read_bytes() for path in (tmp_path / "shards").iterdir()}
    folder = hub.resolve(REPOSITORY).folder
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    ours = load_decoder(folder)
    assert torch.equal(ours.embed_tokens.weight, model.model.embed_tokens.weight)


def test_without_safetensors_it_is_refused_before_anything_is_fetched(served):
    served.files.pop("model.safetensors")
    with pytest.raises(WeightsError, match=r"never \.bin"):
        hub.resolve(REPOSITORY)
    assert not served.asked


def test_an_unknown_family_is_refused_before_its_weights_are_fetched(served):
    served.files["config.json"] = b'{"model_type": "mamba"}'
    with pytest.raises(WeightsError, match="gpt2, llama, mistral, qwen2, qwen3, gemma3_text"):
        hub.resolve(REPOSITORY)
    assert served.served == 0


def test_no_such_repository(served):
    with pytest.raises(DownloadError, match="no such model"):
        hub.resolve("somebody/else")


def test_no_network(served, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(DownloadError, match="could not be fetched from http://127") as raised:
        hub.resolve(REPOSITORY)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("model", ["nothing", "./none", "a/b/c", "missing.gguf", "some/x.gguf"])
def test_what_is_nothing_lists_the_catalog(model):
    with pytest.raises(WeightsError, match="smollm2-135m-instruct, gpt2, gpt2-medium"):
        hub.resolve(model)


def test_a_file_that_is_no_gguf(tmp_path):
    (tmp_path / "model.bin").write_bytes(b"x")
    with pytest.raises(WeightsError, match="neither a folder nor"):
        hub.resolve(str(tmp_path / "model.bin"))


def test_catalog_names_what_was_asked_for():
    assert {"gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "distilgpt2"} <= MODELS.keys()
    assert {"smollm2-135m", "smollm2-360m", "qwen3-0.6b", "gemma3-270m"} <= MODELS.keys()
    for name, entry in MODELS.items():
        assert entry.name == name
        rates = {"smollm2-135m-instruct": 1.5e-3}
        assert entry.learning_rate == rates.get(name, 5e-5 if "gpt2" in name else 5e-4)
