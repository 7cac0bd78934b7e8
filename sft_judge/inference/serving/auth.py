"""Who may ask: API keys from a file, and addresses that only this machine can reach."""

import hashlib
import hmac
import ipaddress
from pathlib import Path

from sft_judge.core.errors import InputError

MIN_KEY_LENGTH = 16


def read_keys(path: Path) -> list[str]:
    """The keys of a file, one a line; empty lines and those with # are left out. Raises `InputError`."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not text; expected one API key a line.") from error
    keys = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    short = next((place for place, key in enumerate(keys, 1) if len(key) < MIN_KEY_LENGTH or not key.isascii()), None)
    if short or not keys:
        seen = f"key {short} is shorter than {MIN_KEY_LENGTH} ASCII characters" if short else "no key in it"
        raise InputError(f"{path}: {seen}. `openssl rand -hex 32 > {path}` makes one.")
    return keys


def check_exposure(host: str, keys: list[str], insecure: bool) -> None:
    """Raise `InputError` where others could reach the server and no key is asked of them."""
    if not (keys or insecure or is_loopback(host)):
        raise InputError(
            f"--host {host} can be reached from other machines and there is no key. Give --api-key-file, or "
            "--insecure where something before the server asks who is there."
        )


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own; any name but localhost counts as public."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Keys:
    """The keys of a server; none of them, and everybody may ask."""

    def __init__(self, keys: list[str]):
        self._digests = [_digest(key.encode()) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def admit(self, headers: dict[bytes, bytes]) -> bool:
        """Whether `Authorization: Bearer KEY` holds a key. It takes as long for a wrong key as for a right one."""
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        digest = _digest(given.strip())
        matches = [hmac.compare_digest(digest, accepted) for accepted in self._digests]
        return not matches or (scheme.lower() == b"bearer" and any(matches))


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
