"""Downloads of models, against a real HTTP server with the habits and faults of real ones."""

import hashlib
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from model_hub import MODEL, Remote, serve
from worker_process import COMMAND

from penstock_worker.fetch.cli import main, origin
from penstock_worker.fetch.folder import MARKER, fetch, remove


@pytest.fixture
def remote() -> Iterator[Remote]:
    with serve(Remote()) as found:
        yield found


@pytest.fixture
def into(tmp_path: Path) -> Path:
    return tmp_path / "hf" / "org" / "model@main"


def get(remote: Remote, into: Path, *, token: str = "", revision: str = "main") -> None:
    environment = {"HF_ENDPOINT": remote.url, "HF_TOKEN": token}
    found = origin("hf://org/model", revision, environment)
    with found.client:
        fetch(found, into, say=lambda line: None)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != MARKER}


def left_over(into: Path) -> list[str]:
    return [path.name for path in into.parent.iterdir() if path.name.endswith(".partial")]


def test_a_model_arrives_whole_with_nothing_left_beside_it(remote: Remote, into: Path) -> None:
    get(remote, into)
    assert content(into) == MODEL
    assert left_over(into) == []


def test_what_is_complete_is_not_asked_for_again(remote: Remote, into: Path) -> None:
    get(remote, into)
    asked = len(remote.requests)
    get(remote, into)
    assert len(remote.requests) == asked


def test_a_token_is_for_the_hub_and_not_for_where_it_redirects(remote: Remote, into: Path) -> None:
    remote.token = "secret"
    get(remote, into, token="secret")
    assert remote.asked("revision/main")[0]["authorization"] == "Bearer secret"
    assert remote.asked("/cdn/model.safetensors")
    assert "authorization" not in remote.asked("/cdn/model.safetensors")[0]


def test_a_connection_that_is_cut_is_resumed_where_it_broke(remote: Remote, into: Path) -> None:
    remote.cut_after = [200_000, 100_000]
    get(remote, into)
    assert content(into) == MODEL
    ranges = [headers.get("range", "") for headers in remote.asked("/cdn/model.safetensors")]
    assert ranges == ["", "bytes=200000-", "bytes=300000-"]


def test_a_download_that_was_killed_goes_on_in_another_process(remote: Remote, into: Path) -> None:
    remote.cut_after = [200_000]
    remote.failures = []
    part = into.with_name(f".{into.name}.{remote.commit[:16]}.partial")
    part.mkdir(parents=True)
    (part / "model.safetensors.partial").write_bytes(MODEL["model.safetensors"][:150_000])
    get(remote, into)
    assert content(into) == MODEL
    assert remote.asked("/cdn/model.safetensors")[0]["range"] == "bytes=150000-"


def test_a_server_that_ignores_ranges_costs_time_but_no_byte(remote: Remote, into: Path) -> None:
    remote.heeds_ranges = False
    remote.cut_after = [200_000]
    get(remote, into)
    assert content(into) == MODEL


def test_what_another_version_left_behind_is_not_mixed_in(remote: Remote, into: Path) -> None:
    old = into.with_name(f".{into.name}.{'0' * 16}.partial")
    old.mkdir(parents=True)
    (old / "config.json").write_text("old")
    get(remote, into)
    assert content(into) == MODEL
    assert left_over(into) == []


def test_what_is_removed_goes_whole_or_not(remote: Remote, into: Path) -> None:
    beside = into.with_name(f"{into.name}-2")
    get(remote, beside)
    get(remote, into)
    into.with_name(f".{into.name}.{'0' * 16}.partial").mkdir()
    remove(into)
    assert not into.exists()
    assert left_over(into) == []
    assert content(beside) == MODEL
    remove(into)


@pytest.mark.parametrize("name", MODEL)
def test_a_damaged_file_is_fetched_anew(remote: Remote, into: Path, name: str) -> None:
    remote.damaged = [name]
    get(remote, into)
    assert content(into) == MODEL


def test_a_file_that_stays_damaged_never_gets_its_place(remote: Remote, into: Path) -> None:
    remote.damaged = ["model.safetensors"] * 2
    assert "damaged twice" in failure(remote, into)
    assert not into.exists()


def test_a_server_that_is_busy_is_asked_again(remote: Remote, into: Path) -> None:
    remote.failures = [503]
    get(remote, into)
    assert content(into) == MODEL


def test_only_what_describes_a_model_is_fetched(remote: Remote, into: Path) -> None:
    remote.files |= {
        "pytorch_model.bin": b"x", "modeling.py": b"x", "onnx/model.safetensors": b"x",
        "consolidated.safetensors": b"x", "model.fp32-00001-of-00002.safetensors": b"x",
        ".gitattributes": b"x", "chat_template.jinja": b"x",
    }  # fmt: skip
    get(remote, into)
    assert content(into).keys() == MODEL.keys() | {"chat_template.jinja"}


def test_how_a_model_makes_vectors_is_fetched_with_it(remote: Remote, into: Path) -> None:
    remote.files |= {
        "modules.json": b"[]", "1_Pooling/config.json": b"{}", "1_Pooling/other.json": b"x",
        "openvino/config.json": b"x", "1_Pooling/deeper/config.json": b"x",
    }  # fmt: skip
    get(remote, into)
    found = {str(p.relative_to(into)) for p in into.rglob("*") if p.is_file()} - {MARKER}
    assert found == MODEL.keys() | {"modules.json", "1_Pooling/config.json"}


@pytest.mark.parametrize("name", ["../evil.json", "a/../../evil.json", "/etc/evil.json", "..\\x"])
def test_a_name_that_leads_out_of_the_folder_is_refused(
    remote: Remote, into: Path, name: str
) -> None:
    remote.files[name] = b"x"
    assert "leads out" in failure(remote, into)


def test_processes_that_share_a_volume_fetch_once(remote: Remote, into: Path) -> None:
    threads = [threading.Thread(target=get, args=(remote, into)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert content(into) == MODEL
    assert len(remote.asked("/cdn/model.safetensors")) == 1


def test_a_folder_that_somebody_else_made_is_left_alone(remote: Remote, into: Path) -> None:
    into.mkdir(parents=True)
    (into / "mine").write_text("mine")
    assert "exists and is no complete download" in failure(remote, into)
    assert content(into) == {"mine": b"mine"}


def failure(remote: Remote, into: Path, uri: str = "hf://org/model", **environment: str) -> str:
    """Run the command as an init container does; return its last words."""
    done = subprocess.run(
        [COMMAND, "fetch", uri, "--revision", environment.pop("revision", "main"), "--into", into],
        env={"HF_ENDPOINT": remote.url, "AWS_ENDPOINT_URL": remote.url, **environment},
        capture_output=True, text=True, timeout=150, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


def test_a_gated_model_says_where_a_token_goes(remote: Remote, into: Path) -> None:
    remote.token = "secret"
    words = failure(remote, into)
    assert "is gated" in words
    assert "HF_TOKEN in spec.model.secretRef" in words
    assert "HF_TOKEN has no access" in failure(remote, into, HF_TOKEN="another")


def test_a_token_is_never_printed(remote: Remote, into: Path) -> None:
    remote.token = "secret"
    assert "hf_private" not in failure(remote, into, HF_TOKEN="hf_private")


def test_a_model_or_revision_that_is_not_there_is_named(remote: Remote, into: Path) -> None:
    assert "hf://org/other does not exist" in failure(remote, into, "hf://org/other")
    assert "no revision 'v9'" in failure(remote, into, revision="v9")


ADAPTER = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"x" * 1000}


def test_of_an_adapter_its_two_files_are_fetched(
    remote: Remote, into: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote.files = {**ADAPTER, "tokenizer.json": b"{}", "adapter_model.bin": b"x"}
    monkeypatch.setenv("HF_ENDPOINT", remote.url)
    assert main(["hf://org/model", "--into", str(into), "--adapter"]) == 0
    assert content(into) == ADAPTER


def test_a_model_is_no_adapter_and_an_adapter_no_model(
    remote: Remote, into: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", remote.url)
    assert main(["hf://org/model", "--into", str(into), "--adapter"]) == 1
    assert "there is no adapter_config.json" in capsys.readouterr().err
    remote.files = dict(ADAPTER)
    assert main(["hf://org/model", "--into", str(into)]) == 1
    assert "name it in spec.model.adapters" in capsys.readouterr().err


def test_a_model_without_safetensors_says_why_it_is_not_fetched(remote: Remote, into: Path) -> None:
    remote.files = {"config.json": b"{}", "pytorch_model.bin": b"x"}
    assert "they can run code" in failure(remote, into)


def test_a_volume_that_is_too_small_is_told_before_anything_is_fetched(
    remote: Remote, into: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", remote.url)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    assert main(["hf://org/model", "--into", str(into)]) == 1
    assert "no space" in capsys.readouterr().err
    assert remote.asked("/cdn/model.safetensors") == []


def test_a_bucket_is_read_page_by_page_and_signed(remote: Remote, tmp_path: Path) -> None:
    remote.page = 2
    environment = {
        "AWS_ENDPOINT_URL": remote.url, "AWS_ACCESS_KEY_ID": "me", "AWS_SECRET_ACCESS_KEY": "k",
    }  # fmt: skip
    found = origin("s3://bucket/models/small", "main", environment)
    with found.client:
        fetch(found, tmp_path / "model", say=lambda line: None)
    assert content(tmp_path / "model") == MODEL
    assert all("Credential=me/" in h["authorization"] for _, _, h in remote.requests)


def test_a_damaged_object_is_noticed_by_its_etag(remote: Remote, tmp_path: Path) -> None:
    remote.damaged = ["config.json"] * 2
    words = failure(remote, tmp_path / "model", "s3://bucket/models/small")
    assert "config.json arrived damaged" in words


def test_a_bucket_without_the_model_says_so(remote: Remote, tmp_path: Path) -> None:
    assert "holds nothing" in failure(remote, tmp_path / "m", "s3://bucket/models/other")
    assert "does not exist" in failure(remote, tmp_path / "m", "s3://elsewhere/models")


@pytest.mark.parametrize("uri", ["ftp://x/y", "hf://", "s3:///x", "gs://", "pvc://claim/x"])
def test_other_sources_are_refused(remote: Remote, into: Path, uri: str) -> None:
    assert "only hf://ORG/NAME, s3://BUCKET/PREFIX and gs://BUCKET" in failure(remote, into, uri)


def test_the_hub_of_these_tests_lists_a_model_as_the_official_client_reads_it(
    remote: Remote,
) -> None:
    from huggingface_hub import HfApi

    info = HfApi(endpoint=remote.url).model_info(
        "org/model", revision="main", files_metadata=True, token=False
    )
    assert info.sha == remote.commit
    files = {sibling.rfilename: sibling for sibling in info.siblings or ()}
    weights = files["model.safetensors"]
    assert weights.size == len(MODEL["model.safetensors"])
    assert weights.lfs is not None
    assert weights.lfs.sha256 == hashlib.sha256(MODEL["model.safetensors"]).hexdigest()
    assert files["config.json"].blob_id is not None
    assert files["config.json"].lfs is None
