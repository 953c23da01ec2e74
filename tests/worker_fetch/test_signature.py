"""The worked examples of the S3 API reference, "Signature Calculations for the Authorization
Header: Transferring Payload in a Single Chunk"."""

from datetime import UTC, datetime

import pytest

from penstock_worker.fetch.signature import Credentials, signed

EXAMPLE = Credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
HOST = "examplebucket.s3.amazonaws.com"
MOMENT = datetime(2013, 5, 24, tzinfo=UTC)


@pytest.mark.parametrize(
    ("path", "headers", "signature"),
    [
        (
            "/test.txt",
            {"Range": "bytes=0-9"},
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
        ),
        (
            "/?lifecycle",
            {},
            "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
        ),
        (
            "/?max-keys=2&prefix=J",
            {},
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
        ),
    ],
)
def test_signatures_are_those_of_the_published_examples(
    path: str, headers: dict[str, str], signature: str
) -> None:
    headers = {"Host": HOST, **headers}
    added = signed("GET", f"https://{HOST}{path}", headers, EXAMPLE, "us-east-1", MOMENT)
    assert added["authorization"].endswith(f"Signature={signature}")


def test_temporary_credentials_sign_their_token() -> None:
    who = Credentials("key", "secret", session="token")
    added = signed("GET", f"https://{HOST}/x", {"Host": HOST}, who, "us-east-1", MOMENT)
    assert added["x-amz-security-token"] == "token"
    assert "x-amz-security-token" in added["authorization"]
