"""TLS of the picker: a certificate that is given and read again when replaced, or a self-made one.

Gateways that speak TLS to endpoint pickers do not check by whom the certificate is, as no authority
could know a picker. A self-made one keeps prompts from those who only listen.
"""

import datetime
import logging
from pathlib import Path
from typing import Any, Final

import grpc

log = logging.getLogger("penstock.picker")

CERTIFICATE: Final = "tls.crt"
KEY: Final = "tls.key"
"""Files of a folder, as Kubernetes mounts a Secret of the type kubernetes.io/tls."""
_NAME: Final = "penstock-endpoint-picker"
_DAYS: Final = 3650


def given(folder: Path) -> Any:
    """Return server credentials of the certificate in a folder, whatever it is at the time.

    Raises:
        OSError: there is none.
    """
    reader = _Reader(folder)
    first = reader.read()
    return grpc.dynamic_ssl_server_credentials(first, reader.renewed)


def self_made() -> Any:
    """Return server credentials of a certificate that is made now."""
    return grpc.ssl_server_credentials([_self_signed()])


class _Reader:
    """Reads a certificate and its key whenever they were replaced."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: tuple[int, ...] = ()

    def read(self) -> Any:
        """Return what is there."""
        key, certificate = (self._folder / name for name in (KEY, CERTIFICATE))
        self._seen = (key.stat().st_mtime_ns, certificate.stat().st_mtime_ns)
        pair = (key.read_bytes(), certificate.read_bytes())
        return grpc.ssl_server_certificate_configuration([pair])

    def renewed(self) -> Any:
        """Return what is there, if it was replaced; asked before each handshake."""
        try:
            now = tuple((self._folder / name).stat().st_mtime_ns for name in (KEY, CERTIFICATE))
            return None if now == self._seen else self.read()
        except OSError as error:
            log.warning("keeping the last certificate: %s", error)
            return None


def _self_signed() -> tuple[bytes, bytes]:
    """Return a key and a certificate, as PEM."""
    # 8 MB that a picker with a given certificate, or with none, can do without.
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, _NAME)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=_DAYS))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(_NAME)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    written = key.private_bytes(
        encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return written, certificate.public_bytes(encoding)
