"""Files that the gateway is given: whatever is wrong with one is told in a line, before nginx reads it."""

import subprocess
from pathlib import Path

import pytest

from densenet.gateway import certificates, command, nginx, upstreams
from densenet.gateway.proxy import Gateway, Limits, Settings
from export.console import CliError
from tests.certificates import make

LIMITS = Limits(
    rate=1, burst=1, concurrent=1, concurrent_each=1, header_seconds=1, body_seconds=1, idle_seconds=1,
    answer_seconds=1, drain_seconds=1, body_bytes=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CA, a certificate with its key, and files that are none."""
    folder = tmp_path_factory.mktemp("with a blank")
    make(folder)
    (folder / "other").mkdir()
    make(folder / "other")
    (folder / "text").write_text("hello")
    (folder / "empty").write_text("")
    whole = (folder / "certificate.pem").read_text()
    (folder / "damaged").write_text(whole[:200] + "\n-----END CERTIFICATE-----\n")
    command = ["openssl", "rsa", "-aes128", "-passout", "pass:x", "-in", folder / "key.pem"]
    subprocess.run([*command, "-out", folder / "encrypted"], check=True, capture_output=True)
    return folder


def test_a_pair_and_a_ca_pass(folder: Path) -> None:
    certificates.check_pair(folder / "certificate.pem", folder / "key.pem")
    certificates.check_ca(folder / "ca.pem")


@pytest.mark.parametrize(
    ("certificate", "key", "message"),
    [
        ("missing", "key.pem", "cannot read --certificate .*missing: No such file or directory$"),
        ("other", "key.pem", "cannot read --certificate .*other: Is a directory$"),
        ("text", "key.pem", "--certificate .*text contains no certificate"),
        ("key.pem", "key.pem", "--certificate .*contains no certificate"),
        ("certificate.pem", "missing", "cannot read --key .*missing: No such file or directory$"),
        ("certificate.pem", "empty", "--key .*empty contains no private key"),
        ("certificate.pem", "certificate.pem", "--key .*contains no private key"),
        ("certificate.pem", "encrypted", "--key .*is encrypted"),
        ("certificate.pem", "other/key.pem", "--key .* is not the key of --certificate .*certificate.pem$"),
        ("damaged", "key.pem", "--certificate .*damaged or --key .* is damaged"),
    ],
)
def test_a_pair_that_is_none_is_told(folder: Path, certificate: str, key: str, message: str) -> None:
    with pytest.raises(CliError, match=message) as told:
        certificates.check_pair(folder / certificate, folder / key)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", "cannot read --upstream-ca .*missing: No such file or directory$"),
        ("text", "--upstream-ca .*text contains no certificate"),
        ("key.pem", "--upstream-ca .*contains no certificate"),
        ("damaged", "--upstream-ca .*contains no certificate, or a damaged one"),
    ],
)
def test_a_ca_that_is_none_is_told(folder: Path, name: str, message: str) -> None:
    with pytest.raises(CliError, match=message):
        certificates.check_ca(folder / name)


@pytest.mark.parametrize("name", ["text", "missing"])
def test_the_gateway_checks_its_files_before_nginx_does(
    folder: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nginx, "program", lambda: "/bin/false")
    pairs = [(folder / name, folder / "key.pem", None), (None, None, folder / name)]
    for certificate, key, ca in pairs:
        settings = Settings(
            host="127.0.0.1", port=1, certificate=certificate, key=key, keys=None, ca=ca, cors=(),
            access_log="off", upstreams=(upstreams.parse("127.0.0.1:9"),), limits=LIMITS,
        )  # fmt: skip
        with pytest.raises(CliError, match="--certificate" if certificate else "--upstream-ca"):
            Gateway(settings, tmp_path).run()


@pytest.mark.parametrize(
    ("name", "writable"), [("off", True), ("new.log", True), ("text", True), ("missing/log", False), ("other", False)]
)
def test_a_log_that_cannot_be_written_is_told(folder: Path, name: str, writable: bool) -> None:
    path = name if name == "off" else str(folder / name)
    if writable:
        assert command._log_file(path) == path
    else:
        with pytest.raises(CliError, match="--access-log: cannot write to"):
            command._log_file(path)
    assert command._log_file("/dev/stdout") == "/dev/stdout"


def test_of_what_nginx_says_the_reason_is_told() -> None:
    output = "nginx: [emerg] unknown directive\nnginx: configuration file /x test failed\n"
    assert nginx._reason(output) == "unknown directive"
    assert nginx._reason("something\nelse") == "something else"
