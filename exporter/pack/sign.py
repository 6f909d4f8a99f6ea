"""Sign files as Frank Denis's minisign does: Ed25519 over BLAKE2b, in FILE.minisig."""

import getpass
import os
import sys
from pathlib import Path

PASSWORD = "MINISIGN_PASSWORD"  # where there is no terminal to ask at


class Signer:
    """A secret key of minisign's, as `minisign -G` writes it."""

    def __init__(self, path: Path):
        """Read the key; its password, where it has one, is asked for at the terminal or is MINISIGN_PASSWORD.

        Raises ValueError for a file that is no such key and for a wrong password, OSError where it cannot be
        read.
        """
        import minisign

        try:
            self._key = minisign.SecretKey.from_file(path)
            if self._key.is_encrypted():
                self._key.decrypt(_password(path))
        except (minisign.Error, UnicodeDecodeError) as error:
            raise ValueError(
                f"--sign {path} cannot be used: {error}; give the secret key that minisign -G wrote"
            ) from None

    def sign(self, path: Path, name: str) -> None:
        """Write `path`.minisig, which says that the file is called `name`; the same bytes every time."""
        with path.open("rb") as file:
            signature = self._key.sign(file, trusted_comment=f"file:{name}")
        path.with_name(f"{path.name}.minisig").write_bytes(bytes(signature))


def _password(path: Path) -> str:
    if (given := os.environ.get(PASSWORD)) is not None:
        return given
    if not sys.stdin.isatty():
        raise ValueError(f"--sign {path} has a password and there is no terminal to ask at; set {PASSWORD}")
    return getpass.getpass(f"password of {path}: ")
