"""Access control: API keys from a file, and a check whether other machines can reach the server."""

import hashlib
import hmac
import ipaddress
import ssl
from pathlib import Path

from sft_judge.core.errors import InputError

MIN_KEY_LENGTH = 16


def read_keys(path: Path) -> list[str]:
    """Read API keys from a file, one per line. Empty lines and comments (#) are skipped. Raises `InputError`."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text file; expected one API key per line.") from error
    keys = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    short = next((place for place, key in enumerate(keys, 1) if len(key) < MIN_KEY_LENGTH or not key.isascii()), None)
    if short or not keys:
        seen = f"key {short} is shorter than {MIN_KEY_LENGTH} ASCII characters" if short else "the file has no key"
        raise InputError(f"{path}: {seen}. `openssl rand -hex 32 > {path}` makes one.")
    return keys


def check_exposure(host: str, keys: list[str], insecure: bool) -> None:
    """
    Raise `InputError` if other machines can reach the server and no key is required.

    Args:
        host: address the server listens on.
        keys: the API keys.
        insecure: True if the user accepts this.
    """
    if not (keys or insecure or is_loopback(host)):
        raise InputError(
            f"--host {host} can be reached from other machines and there is no key. Give --api-key-file, or "
            "--insecure if a proxy in front of the server checks who may use it."
        )


def check_certificate(certificate: Path | None, key: Path | None) -> None:
    """
    Check the files for HTTPS, before the engine is started.

    Args:
        certificate: file of the certificate, or None.
        key: file of its private key, or None.

    Raises:
        InputError: one of the two is missing, or they are not a certificate and its key.
    """
    if (certificate is None) != (key is None):
        raise InputError("--ssl-certfile and --ssl-keyfile go together.")
    if certificate is None:
        return
    for file in (certificate, key):
        if not file.is_file():
            raise InputError(f"{file}: no such file.")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, OSError, ValueError) as error:
        raise InputError(
            f"{certificate} and {key} are not a certificate and its unencrypted key, in PEM ({error})."
        ) from error


def is_loopback(host: str) -> bool:
    """Return True if an address is this machine's own. Any name except localhost counts as public."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Keys:
    """
    Check the API keys of requests. Without keys every request is admitted.

    Args:
        keys: the accepted keys.
    """

    def __init__(self, keys: list[str]):
        self._digests = [_digest(key.encode()) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def admit(self, headers: dict[bytes, bytes]) -> bool:
        """Return True if `Authorization: Bearer KEY` holds an accepted key. The comparison takes constant time."""
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        digest = _digest(given.strip())
        matches = [hmac.compare_digest(digest, accepted) for accepted in self._digests]
        return not matches or (scheme.lower() == b"bearer" and any(matches))


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
