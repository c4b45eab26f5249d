"""Check certificates and keys before nginx reads them, whose own messages are OpenSSL's."""

import ssl
from pathlib import Path

from export import console
from export.console import CliError


def check_pair(certificate: Path, key: Path) -> None:
    """Check that a certificate and its private key can be read and belong together.

    Raises:
        CliError: with the option and the file that is wrong.
    """
    if b"CERTIFICATE-----" not in _read("--certificate", certificate):
        raise CliError(f"--certificate {certificate} contains no certificate; give it in PEM, with its chain")
    private = _read("--key", key)
    if b"PRIVATE KEY-----" not in private:
        raise CliError(f"--key {key} contains no private key; give it in PEM")
    if b"ENCRYPTED" in private:
        raise CliError(f"--key {key} is encrypted; nginx cannot ask for its password, so give it unencrypted")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers("ALL:@SECLEVEL=0")  # nginx decides what is strong enough
    try:
        context.load_cert_chain(certificate, key)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise CliError(f"--key {key} is not the key of --certificate {certificate}") from error
        raise CliError(f"--certificate {certificate} or --key {key} is damaged; give both in PEM") from error


def check_ca(path: Path) -> None:
    """Check that a file contains certificates of authorities.

    Raises:
        CliError: if it cannot be read, or contains none.
    """
    console.open_file("--upstream-ca", path).close()
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError as error:
        raise CliError(f"--upstream-ca {path} contains no certificate, or a damaged one; give it in PEM") from error


def _read(option: str, path: Path) -> bytes:
    with console.open_file(option, path) as file:
        return file.read()
