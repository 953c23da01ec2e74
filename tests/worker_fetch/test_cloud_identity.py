"""Buckets whose credentials end: web identities, agents on the node, and a metadata server."""

import re
from collections.abc import Iterator
from datetime import timedelta
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import httpx
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from issuers import METADATA, Issuer, serve_issuer
from model_hub import MODEL, Remote, serve

from penstock_worker.fetch import retry
from penstock_worker.fetch.cli import main, origin
from penstock_worker.fetch.container_identity import FULL, RELATIVE, agent
from penstock_worker.fetch.folder import MARKER, fetch
from penstock_worker.fetch.remote import FetchError
from penstock_worker.fetch.s3 import S3
from penstock_worker.fetch.web_identity import session_name, sts_endpoint

ROLE = "arn:aws:iam::123456789012:role/models"
KEYS = {"AWS_ACCESS_KEY_ID": "me", "AWS_SECRET_ACCESS_KEY": "k"}


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with serve_issuer(Issuer()) as found:
        yield found


@pytest.fixture
def remote(issuer: Issuer) -> Iterator[Remote]:
    with serve(Remote(admits=issuer.admits)) as found:
        yield found


@pytest.fixture
def token(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text("first\n")
    return path


@pytest.fixture
def role(remote: Remote, issuer: Issuer, token: Path) -> dict[str, str]:
    """The environment that EKS's webhook makes, but for the addresses."""
    return {
        "AWS_ROLE_ARN": ROLE, "AWS_WEB_IDENTITY_TOKEN_FILE": str(token), "AWS_REGION": "eu-west-1",
        "AWS_ENDPOINT_URL": remote.url, "AWS_ENDPOINT_URL_STS": issuer.url, "HOSTNAME": "chat-0",
    }  # fmt: skip


@pytest.fixture
def on_node(remote: Remote, issuer: Issuer, token: Path) -> dict[str, str]:
    """The environment that EKS Pod Identity makes, but for the addresses."""
    return {
        FULL: f"{issuer.url}/v1/credentials", "AWS_ENDPOINT_URL": remote.url,
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(token),
    }  # fmt: skip


@pytest.fixture
def google(remote: Remote, issuer: Issuer) -> dict[str, str]:
    remote.google = True
    return {"STORAGE_EMULATOR_HOST": remote.url, "GCE_METADATA_HOST": issuer.host}


def get(environment: dict[str, str], into: Path, scheme: str = "s3") -> dict[str, bytes]:
    """Fetch a model; return what has arrived."""
    found = origin(f"{scheme}://bucket/models/small", "main", environment)
    with found.client:
        fetch(found, into, say=lambda line: None)
    return {path.name: path.read_bytes() for path in into.iterdir() if path.name != MARKER}


def refusal(environment: dict[str, str], into: Path, scheme: str = "s3") -> str:
    """Fetch a model that cannot be had; return why."""
    with pytest.raises(FetchError) as error:
        get(environment, into, scheme)
    assert "\n" not in str(error.value)
    assert "session of" not in str(error.value)
    return str(error.value)


def users(remote: Remote) -> list[str]:
    """Return whose keys the requests had, in order."""
    found = [re.search(r"Credential=([^/]+)/", h["authorization"]) for _, _, h in remote.requests]
    return [one[1] for one in found if one]


class TestWebIdentity:
    def test_a_token_is_exchanged_for_keys_that_sign(
        self, remote: Remote, issuer: Issuer, role: dict[str, str], tmp_path: Path
    ) -> None:
        assert get(role, tmp_path / "m") == MODEL
        ((_, _, form),) = issuer.requests
        assert form == {
            "Action": ["AssumeRoleWithWebIdentity"], "Version": ["2011-06-15"], "RoleArn": [ROLE],
            "RoleSessionName": ["penstock-chat-0"], "WebIdentityToken": ["first"],
        }  # fmt: skip
        assert set(users(remote)) == {"key-1"}

    def test_keys_that_end_soon_are_renewed_with_the_token_of_that_moment(
        self, remote: Remote, issuer: Issuer, role: dict[str, str], token: Path, tmp_path: Path
    ) -> None:
        issuer.lasts = timedelta(minutes=1)
        found = origin("s3://bucket/models/small", "main", role)
        with found.client:
            listing = found.listing()
            token.write_text("second")
            assert found.client.get(listing.files[0].url).status_code == 200
        assert issuer.requests[-1][2]["WebIdentityToken"] == ["second"]
        assert users(remote)[-1] == f"key-{issuer.issued}"

    def test_keys_that_expire_in_a_download_are_renewed_once_and_it_goes_on_where_it_was(
        self, remote: Remote, issuer: Issuer, role: dict[str, str], tmp_path: Path
    ) -> None:
        remote.files = {"config.json": b"{}", "model.safetensors": MODEL["model.safetensors"]}
        remote.cut_after = [200_000]

        def admits(headers: dict[str, str]) -> tuple[int, str]:
            if "range" in headers and issuer.issued == 1:
                issuer.expire()
            return issuer.admits(headers)

        remote.admits = admits
        assert get(role, tmp_path / "m") == remote.files
        assert issuer.issued == 2
        ranges = [h.get("range", "") for h in remote.asked("model.safetensors")]
        assert ranges[-2:] == ["bytes=200000-", "bytes=200000-"]
        assert users(remote)[-1] == "key-2"

    def test_a_refusal_without_words_is_answered_with_new_keys_too(
        self, remote: Remote, issuer: Issuer, role: dict[str, str]
    ) -> None:
        found = origin("s3://bucket/models/small", "main", role)
        with found.client:
            listing = found.listing()
            issuer.expire()
            assert found.client.head(listing.files[0].url).status_code == 200
        assert issuer.issued == 2

    def test_keys_that_stay_expired_are_renewed_once(
        self, remote: Remote, issuer: Issuer, role: dict[str, str], tmp_path: Path
    ) -> None:
        remote.admits = lambda headers: (400, "ExpiredToken")
        assert "credentials have expired" in refusal(role, tmp_path / "m")
        assert issuer.issued == 2

    def test_keys_come_before_a_role(
        self, remote: Remote, issuer: Issuer, role: dict[str, str], tmp_path: Path
    ) -> None:
        remote.admits = lambda headers: (200, "")
        assert get({**role, **KEYS}, tmp_path / "m") == MODEL
        assert set(users(remote)) == {"me"}
        assert issuer.requests == []

    def test_a_role_that_does_not_trust_the_account_says_what_to_correct(
        self, issuer: Issuer, role: dict[str, str], tmp_path: Path
    ) -> None:
        words = "Not authorized to perform\n sts:AssumeRoleWithWebIdentity"
        error = f"<ErrorResponse><Error><Code>AccessDenied</Code><Message>{words}</Message></Error>"
        issuer.refusals = [(403, f"{error}</ErrorResponse>")]
        said = refusal(role, tmp_path / "m")
        assert ROLE in said
        assert "trust policy" in said
        assert "AccessDenied: Not authorized" in said

    def test_a_busy_sts_is_asked_again(
        self, issuer: Issuer, role: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("time.sleep", lambda seconds: None)
        busy = "<Error><Code>IDPCommunicationError</Code></Error>"
        issuer.refusals = [(503, ""), (400, busy)]
        assert get(role, tmp_path / "m") == MODEL

    def test_an_sts_that_is_away_is_named(
        self, role: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("time.sleep", lambda seconds: None)
        role["AWS_ENDPOINT_URL_STS"] = "http://127.0.0.1:9"
        said = refusal(role, tmp_path / "m")
        assert f"after {retry.ATTEMPTS} attempts: STS at http://127.0.0.1:9" in said

    @pytest.mark.parametrize("body", ["", "<a/>", "{}", "<AssumeRoleWithWebIdentityResponse/>"])
    def test_what_does_not_answer_as_sts_is_named(
        self, issuer: Issuer, role: dict[str, str], tmp_path: Path, body: str
    ) -> None:
        issuer.refusals = [(200, body)]
        assert "does not answer as STS" in refusal(role, tmp_path / "m")

    def test_a_token_that_is_not_there_is_named(
        self, role: dict[str, str], token: Path, tmp_path: Path
    ) -> None:
        token.unlink()
        assert f"AWS_WEB_IDENTITY_TOKEN_FILE: cannot read {token}" in refusal(role, tmp_path / "m")

    def test_a_role_without_rights_says_which(
        self, remote: Remote, role: dict[str, str], tmp_path: Path
    ) -> None:
        remote.admits = lambda headers: (403, "AccessDenied")
        said = refusal(role, tmp_path / "m")
        assert f"s3://bucket is closed to the role {ROLE}" in said
        assert "s3:GetObject" in said

    @pytest.mark.parametrize(
        ("environment", "region", "endpoint"),
        [
            ({}, "eu-west-1", "https://sts.eu-west-1.amazonaws.com"),
            ({}, "cn-north-1", "https://sts.cn-north-1.amazonaws.com.cn"),
            ({"AWS_STS_REGIONAL_ENDPOINTS": "regional"}, "eu-west-1", "https://sts.eu-west-1.amazonaws.com"),
            ({"AWS_STS_REGIONAL_ENDPOINTS": "legacy"}, "eu-west-1", "https://sts.amazonaws.com"),
            ({"AWS_STS_REGIONAL_ENDPOINTS": "legacy"}, "cn-north-1", "https://sts.cn-north-1.amazonaws.com.cn"),
            ({"AWS_ENDPOINT_URL": "http://minio"}, "eu-west-1", "http://minio"),
            ({"AWS_ENDPOINT_URL": "http://minio", "AWS_ENDPOINT_URL_STS": "http://sts"}, "x", "http://sts"),
        ],
    )  # fmt: skip
    def test_sts_is_where_it_is_set_to_be_or_in_the_region(
        self, environment: dict[str, str], region: str, endpoint: str
    ) -> None:
        assert sts_endpoint(environment, region) == endpoint

    @given(st.text(), st.text())
    def test_a_session_always_has_a_name_that_sts_takes(self, asked: str, host: str) -> None:
        name = session_name({"AWS_ROLE_SESSION_NAME": asked, "HOSTNAME": host})
        assert re.fullmatch(r"[A-Za-z0-9_+=,.@-]{1,64}", name)


class TestAnAgentOnTheNode:
    def test_it_gets_the_token_of_that_moment_and_gives_keys_that_sign(
        self, remote: Remote, issuer: Issuer, on_node: dict[str, str], token: Path, tmp_path: Path
    ) -> None:
        issuer.lasts = timedelta(minutes=1)
        found = origin("s3://bucket/models/small", "main", on_node)
        with found.client:
            listing = found.listing()
            assert issuer.requests[0][1]["authorization"] == "first"
            token.write_text("second")
            assert found.client.get(listing.files[0].url).status_code == 200
        assert issuer.requests[-1][1]["authorization"] == "second"
        assert users(remote)[-1] == f"key-{issuer.issued}"

    def test_it_is_never_asked_through_a_proxy(
        self, on_node: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found = origin("s3://bucket/models/small", "main", on_node)
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        with found.client:
            fetch(found, tmp_path / "m", say=lambda line: None)
        assert (tmp_path / "m" / "config.json").exists()

    def test_it_comes_after_a_role(
        self, issuer: Issuer, role: dict[str, str], on_node: dict[str, str], tmp_path: Path
    ) -> None:
        assert get({**on_node, **role}, tmp_path / "m") == MODEL
        assert [form["Action"] for _, _, form in issuer.requests] == [["AssumeRoleWithWebIdentity"]]

    def test_a_refusal_says_what_to_do(
        self, issuer: Issuer, on_node: dict[str, str], tmp_path: Path
    ) -> None:
        issuer.refusals = [(404, "[no association]\n")]
        said = refusal(on_node, tmp_path / "m")
        assert "associate a role with the ServiceAccount (404: [no association])" in said

    @pytest.mark.parametrize("body", ["", "[]", "{}", '{"AccessKeyId": "x"}', "null"])
    def test_what_does_not_answer_with_credentials_is_named(
        self, issuer: Issuer, on_node: dict[str, str], tmp_path: Path, body: str
    ) -> None:
        issuer.refusals = [(200, body)]
        assert "does not answer with credentials" in refusal(on_node, tmp_path / "m")

    def test_a_token_of_several_lines_is_refused(
        self, on_node: dict[str, str], token: Path, tmp_path: Path
    ) -> None:
        token.write_text("a\r\nX-Evil: b")
        assert "must hold one line" in refusal(on_node, tmp_path / "m")

    @pytest.mark.parametrize(
        "url",
        [
            "http://127.0.0.1:8080/x", "http://127.1.2.3/x", "http://localhost/x", "http://[::1]/x",
            "http://169.254.170.2/x", "http://169.254.170.23/v1/credentials",
            "http://[fd00:ec2::23]/v1/credentials", "https://credentials.example.com/x",
        ],
    )  # fmt: skip
    def test_it_may_be_on_this_node_or_behind_tls(self, url: str) -> None:
        assert str(agent({FULL: url})) == url

    @given(st.ip_addresses())
    def test_no_other_address_is_asked_without_tls(
        self, address: IPv4Address | IPv6Address
    ) -> None:
        known = ("169.254.170.2", "169.254.170.23", "fd00:ec2::23")
        assume(str(address) not in known and not address.is_loopback)
        host = f"[{address}]" if ":" in str(address) else str(address)
        with pytest.raises(FetchError, match=FULL):
            agent({FULL: f"http://{host}/credentials"})

    @pytest.mark.parametrize(
        "url",
        [
            "http://169.254.169.254/latest", "http://example.com/", "http://127.0.0.1.example.com/",
            "http://127.0.0.1@example.com/", "ftp://127.0.0.1/", "file:///etc/passwd", "x", "http://",
        ],
    )  # fmt: skip
    def test_other_places_are_refused(self, url: str) -> None:
        with pytest.raises(FetchError, match=FULL):
            agent({FULL: url})

    def test_a_relative_address_is_that_of_ecs_and_comes_first(self) -> None:
        found = agent({RELATIVE: "/v2/credentials/abc", FULL: "http://example.com/"})
        assert str(found) == "http://169.254.170.2/v2/credentials/abc"


class TestWithoutAnIdentity:
    def test_a_closed_bucket_says_how_to_name_one(self, remote: Remote, tmp_path: Path) -> None:
        said = refusal({"AWS_ENDPOINT_URL": remote.url}, tmp_path / "m")
        assert "spec.model.secretRef" in said
        assert "spec.model.serviceAccountName" in said

    def test_keys_of_a_session_that_has_ended_are_told_from_wrong_ones(
        self, remote: Remote, tmp_path: Path
    ) -> None:
        keys = {**KEYS, "AWS_SESSION_TOKEN": "session of me", "AWS_ENDPOINT_URL": remote.url}
        assert "the access key: its credentials have expired" in refusal(keys, tmp_path / "m")

    def test_a_bucket_in_another_region_says_which(self, tmp_path: Path) -> None:
        store = S3("bucket", {"AWS_DEFAULT_REGION": "eu-west-1"})
        assert store.url == "https://bucket.s3.eu-west-1.amazonaws.com"
        moved = httpx.Response(301, headers={"x-amz-bucket-region": "us-east-2"})
        assert "AWS_REGION=us-east-2" in store.denial("PermanentRedirect", moved)


class TestCloudStorage:
    def test_a_public_bucket_is_read_as_nobody(
        self, remote: Remote, issuer: Issuer, google: dict[str, str], tmp_path: Path
    ) -> None:
        remote.admits = lambda headers: (200, "")
        remote.page = 2
        assert get(google, tmp_path / "m", "gs") == MODEL
        assert issuer.requests == []
        assert all("authorization" not in headers for _, _, headers in remote.requests)

    def test_a_closed_one_is_read_with_the_token_of_the_metadata_server(
        self, remote: Remote, issuer: Issuer, google: dict[str, str], tmp_path: Path
    ) -> None:
        assert get(google, tmp_path / "m", "gs") == MODEL
        ((path, headers, _),) = issuer.requests
        assert path == METADATA
        assert headers["metadata-flavor"] == "Google"
        assert [h.get("authorization") for _, _, h in remote.requests][:2] == [None, "Bearer key-1"]

    def test_a_token_that_expires_in_a_download_is_renewed(
        self, remote: Remote, issuer: Issuer, google: dict[str, str], tmp_path: Path
    ) -> None:
        remote.cut_after = [200_000]

        def admits(headers: dict[str, str]) -> tuple[int, str]:
            if "range" in headers and issuer.issued == 1:
                issuer.expire()
            return issuer.admits(headers)

        remote.admits = admits
        assert get(google, tmp_path / "m", "gs") == MODEL
        assert issuer.issued == 2

    def test_an_object_that_is_replaced_meanwhile_is_noticed(
        self, remote: Remote, google: dict[str, str], tmp_path: Path
    ) -> None:
        found = origin("gs://bucket/models/small", "main", google)
        with found.client:
            listing = found.listing()
            remote.generation += 1
            file = listing.files[0]
            response = found.client.get(file.url, headers=dict(file.headers))
        assert "changed while it was fetched" in found.explain(response)

    @pytest.mark.parametrize("composite", [[], ["model.safetensors"]])
    def test_a_damaged_object_is_noticed_by_whatever_hash_there_is(
        self, remote: Remote, google: dict[str, str], tmp_path: Path, composite: list[str]
    ) -> None:
        remote.composite = composite
        remote.damaged = ["model.safetensors"]
        assert get(google, tmp_path / "once", "gs") == MODEL
        remote.damaged = ["model.safetensors"] * 2
        assert "arrived damaged twice" in refusal(google, tmp_path / "twice", "gs")

    def test_an_object_that_is_stored_compressed_is_refused_by_name(
        self, remote: Remote, google: dict[str, str], tmp_path: Path
    ) -> None:
        remote.compressed = ["config.json"]
        said = refusal(google, tmp_path / "m", "gs")
        assert "gs://bucket/models/small/config.json is stored compressed" in said

    def test_without_a_metadata_server_it_says_what_to_do_instead(
        self, google: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("time.sleep", lambda seconds: None)
        google["GCE_METADATA_HOST"] = "127.0.0.1:9"
        said = refusal(google, tmp_path / "m", "gs")
        assert "no metadata server answers at 127.0.0.1:9" in said
        assert "HMAC keys" in said

    def test_what_only_stands_in_its_place_gets_no_trust(
        self, issuer: Issuer, google: dict[str, str], tmp_path: Path
    ) -> None:
        issuer.flavor = "Captive"
        assert "is no metadata server" in refusal(google, tmp_path / "m", "gs")

    def test_an_account_without_an_identity_or_without_rights_says_so(
        self, remote: Remote, issuer: Issuer, google: dict[str, str], tmp_path: Path
    ) -> None:
        issuer.refusals = [(404, "no account")]
        assert "bind an identity to the ServiceAccount (404: no account)" in refusal(
            google, tmp_path / "m", "gs"
        )
        remote.admits = lambda headers: (403, "AccessDenied")
        assert "roles/storage.objectViewer" in refusal(google, tmp_path / "m", "gs")

    @pytest.mark.parametrize("body", ["", "{}", "[]", '{"access_token": "x"}'])
    def test_what_does_not_answer_with_a_token_is_named(
        self, issuer: Issuer, google: dict[str, str], tmp_path: Path, body: str
    ) -> None:
        issuer.refusals = [(200, body)]
        assert "does not answer with a token" in refusal(google, tmp_path / "m", "gs")


def test_the_command_takes_all_of_it_from_its_environment(
    remote: Remote, google: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in google.items():
        monkeypatch.setenv(name, value)
    assert main(["gs://bucket/models/small", "--into", str(tmp_path / "m")]) == 0
    assert (tmp_path / "m" / "model.safetensors").stat().st_size == len(MODEL["model.safetensors"])
