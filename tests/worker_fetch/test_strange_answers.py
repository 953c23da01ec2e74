"""What servers answer that is not what was expected: a sentence about it, never a traceback."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from functools import cache
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from issuers import Issuer, serve_issuer
from model_hub import MODEL, Remote, serve

from penstock_worker.fetch import retry
from penstock_worker.fetch.bucket import Bucket
from penstock_worker.fetch.cli import origin
from penstock_worker.fetch.cloud_storage import CloudStorage
from penstock_worker.fetch.folder import MARKER, fetch
from penstock_worker.fetch.hub import Hub
from penstock_worker.fetch.remote import Digest, FetchError, Listing
from penstock_worker.fetch.s3 import S3

BIG = "model.safetensors"


@pytest.fixture
def remote() -> Iterator[Remote]:
    with serve(Remote()) as found:
        yield found


def get(remote: Remote, into: Path) -> dict[str, bytes]:
    found = origin("s3://bucket/models/small", "main", {"AWS_ENDPOINT_URL": remote.url})
    with found.client:
        fetch(found, into, say=lambda line: None)
    return {path.name: path.read_bytes() for path in into.iterdir() if path.name != MARKER}


def refusal(remote: Remote, into: Path) -> str:
    with pytest.raises(FetchError) as error:
        get(remote, into)
    return str(error.value)


def test_without_a_length_the_size_is_the_listed_one(remote: Remote, tmp_path: Path) -> None:
    remote.tells_length = False
    assert get(remote, tmp_path / "m") == MODEL
    assert {h["accept-encoding"] for method, _, h in remote.requests if method == "HEAD"} == {
        "identity"
    }


def test_without_any_size_it_says_so(remote: Remote, tmp_path: Path) -> None:
    remote.tells_length = remote.lists_sizes = False
    words = refusal(remote, tmp_path / "m")
    assert "s3://bucket/models/small/config.json has no size" in words


def test_what_is_stored_compressed_is_refused(remote: Remote, tmp_path: Path) -> None:
    remote.encoding = "gzip"
    assert "upload it without a Content-Encoding" in refusal(remote, tmp_path / "m")


def test_the_name_of_a_framing_is_no_compression(remote: Remote, tmp_path: Path) -> None:
    remote.encoding = "aws-chunked"
    assert get(remote, tmp_path / "m") == MODEL


def test_a_listing_that_loses_its_rest_is_not_taken_for_all(remote: Remote, tmp_path: Path) -> None:
    remote.page, remote.loses_token = 1, True
    assert "goes on, and does not say where" in refusal(remote, tmp_path / "m")


def test_another_range_than_asked_for_is_not_appended(
    remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(S3, "digest", lambda self, headers: None)  # only the size is checked
    remote.files = {"config.json": b"{}", BIG: MODEL[BIG]}
    remote.cut_after, remote.shifts_ranges = [200_000], [7]
    assert get(remote, tmp_path / "m") == remote.files
    assert [h.get("range", "") for h in remote.asked(BIG)][-2:] == ["bytes=200000-", ""]


XML = st.sampled_from([b"<a>", b"</a>", b"<Contents>", b"</Contents>", b"<Key>models/x", b"</Key>"])
KLINGON = b'<?xml version="1.0" encoding="klingon"?><a/>'
SIGN_IN = b"<html><body>Sign in</body></html>"
CIRCLE = b"<ListBucketResult><NextContinuationToken>1</NextContinuationToken></ListBucketResult>"
NAMELESS = b"<ListBucketResult><Contents/></ListBucketResult>"


def listed(size: str) -> bytes:
    found = f"<Contents><Key>m/config.json</Key><Size>{size}</Size></Contents>"
    found += f"<Contents><Key>m/a.safetensors</Key><Size>{size}</Size></Contents>"
    return f"<ListBucketResult>{found}</ListBucketResult>".encode()


PAGES = st.one_of(
    st.binary(max_size=60),
    st.lists(XML, max_size=8).map(b"".join),
    st.sampled_from([KLINGON, SIGN_IN, CIRCLE, NAMELESS, listed(""), listed("-1"), listed("2")]),
)
WORDS = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40)
HEADERS = st.dictionaries(
    st.sampled_from([
        "etag", "x-amz-checksum-sha256", "x-amz-checksum-type", "x-goog-hash", "content-encoding",
        "x-goog-generation", "x-goog-stored-content-encoding", "content-length",
    ]),
    WORDS | st.sampled_from(["gzip", "md5=", "md5=AAAA", "crc32c=====", "7", "-7", "1e3"]),
)  # fmt: skip


def answered(source: Bucket | Hub, answer: Callable[[httpx.Request], httpx.Response]) -> None:
    """See that a listing is one, or refused with words."""
    source.client = httpx.Client(transport=httpx.MockTransport(answer), follow_redirects=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retry, "ATTEMPTS", 1)
        with suppress(FetchError):
            listing = source.listing()
            assert isinstance(listing, Listing)
            assert all(file.size >= 0 for file in listing.files)


@cache
def bucket(*, google: bool) -> Bucket:
    """Return a bucket; to make a client costs tens of milliseconds."""
    return Bucket(CloudStorage("b", {}) if google else S3("b", {}), "m")


@cache
def hub() -> Hub:
    return Hub("org/model", "main")


@given(st.booleans(), PAGES, HEADERS, st.sampled_from([200, 200, 204, 302, 404]))
def test_whatever_a_bucket_answers_is_a_listing_or_refused(
    google: bool, page: bytes, headers: dict[str, str], status: int
) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "HEAD":
            return httpx.Response(status, headers=headers)
        return httpx.Response(200, content=page)

    answered(bucket(google=google), answer)


DEEP = b"deep"


def siblings(size: str, digest: str) -> bytes:
    small = f'{{"rfilename": "config.json", "size": {size}, "blobId": {digest}}}'
    large = f'{{"rfilename": "a.safetensors", "size": 3, "lfs": {{"sha256": {digest}}}}}'
    return f'{{"sha": "a", "siblings": [{small}, {large}]}}'.encode()


MODELS = st.sampled_from([
    b"{}", b"[]", b"null", b'{"sha": 1, "siblings": 2}', b'{"sha": "a", "siblings": [["x"]]}',
    b'{"sha": "a", "siblings": [{"rfilename": "config.json"}, {"rfilename": "a.safetensors"}]}',
    siblings("2", '"x"'), siblings("-1", '"x"'), siblings("1e400", '"x"'), siblings("[]", "3"),
    DEEP,
])  # fmt: skip


@given(PAGES | MODELS, st.sampled_from(["", "gzip", "br"]))
def test_whatever_a_hub_answers_is_a_listing_or_refused(body: bytes, encoding: str) -> None:
    def answer(_: httpx.Request) -> httpx.Response:
        stream = httpx.ByteStream(b"[" * 100_000 if body == DEEP else body)
        return httpx.Response(200, headers={"content-encoding": encoding}, stream=stream)

    answered(hub(), answer)


def test_a_redirect_to_itself_ends() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(302, headers={"location": str(request.url)})

    answered(hub(), answer)


def test_a_token_that_lasts_forever_is_refused(tmp_path: Path) -> None:
    with serve_issuer(Issuer(lasts=timedelta.max)) as issuer, serve(Remote(google=True)) as remote:
        remote.admits = issuer.admits
        environment = {"STORAGE_EMULATOR_HOST": remote.url, "GCE_METADATA_HOST": issuer.host}
        issuer.refusals = [(200, '{"access_token": "x", "expires_in": 1e300}')]
        found = origin("gs://bucket/models/small", "main", environment)
        with found.client, pytest.raises(FetchError, match="does not answer with a token"):
            found.listing()


@given(WORDS)
def test_only_a_digest_is_one(text: str) -> None:
    found = Digest.of_base64("md5", text)
    assert found is None or len(bytes.fromhex(found.value)) == 16
