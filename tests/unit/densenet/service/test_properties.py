"""Properties: config.properties as TorchServe reads it, and moved to other ports."""

import re
import shutil
from pathlib import Path

import pytest

from densenet.service import properties
from densenet.service.properties import Properties
from export import ROOT
from export.console import CliError
from handler.settings import Settings

ADDRESSES = {
    "inference_address": "http://127.0.0.1:8080",
    "management_address": "http://127.0.0.1:8081",
    "metrics_address": "http://127.0.0.1:8082",
}


@pytest.fixture
def repository() -> Properties:
    return Properties.read(ROOT / "config.properties")


def properties_file(folder: Path, **changes: str) -> Path:
    path = folder / "config.properties"
    path.write_text("".join(f"{key}={value}\n" for key, value in (ADDRESSES | changes).items()))
    return path


def test_the_repositorys_service_listens_on_loopback_only(repository: Properties) -> None:
    assert repository.listens == [("127.0.0.1", port) for port in (8080, 8081, 8082, 7070, 7071)]
    assert repository.port == 8080


def test_the_repositorys_service_serves_the_archive_that_is_made_by_default(repository: Properties) -> None:
    assert repository.archive == ROOT / "model_store" / "densenet.mar"


def test_nobody_can_register_models_over_the_network(repository: Properties) -> None:
    assert repository.values["enable_model_api"] == "false"


def test_no_answer_is_larger_than_torchserve_lets_through(repository: Properties) -> None:
    assert Settings().max_response_bytes < int(repository.values["max_response_size"])


@pytest.mark.parametrize("port", [1024, 9000, 65531])
def test_another_port_moves_all_five(port: int, repository: Properties) -> None:
    moved = repository.on_port(port)
    assert moved.listens == [("127.0.0.1", port + i) for i in range(5)]
    assert moved.port == port
    assert moved.inference == f"http://127.0.0.1:{port}"
    assert moved.management == f"http://127.0.0.1:{port + 1}"
    assert moved.values["initial_worker_port"] == str(port + 5)


def test_another_port_leaves_all_else_and_the_original_alone(repository: Properties) -> None:
    before = dict(repository.values)
    moved = repository.on_port(9000)
    changed = {key for key in before if moved.values[key] != before[key]}
    assert changed == {*ADDRESSES, "grpc_inference_port", "grpc_management_port", "initial_worker_port"}
    assert moved.values.keys() == before.keys()
    assert dict(repository.values) == before


@pytest.mark.parametrize("port", [None, 9000])
def test_what_is_written_reads_the_same_from_any_folder(
    port: int | None, repository: Properties, tmp_path: Path
) -> None:
    properties = repository.on_port(port) if port else repository
    properties.write(tmp_path / "written.properties")
    assert Properties.read(tmp_path / "written.properties") == properties


def test_a_relative_model_store_is_beside_the_file_and_an_absolute_one_stays(tmp_path: Path) -> None:
    relative = Properties.read(properties_file(tmp_path, model_store="store", load_models="a.mar"))
    assert relative.archive == tmp_path / "store" / "a.mar"
    absolute = Properties.read(properties_file(tmp_path, model_store="/srv/store", load_models="a.mar"))
    assert absolute.archive == Path("/srv/store/a.mar")


def test_comments_blanks_and_spaces_are_passed_over(tmp_path: Path) -> None:
    path = properties_file(tmp_path)
    path.write_text(f"# one=1\n\n  ! two=2\n three = 3=3 \n{path.read_text()}")
    assert Properties.read(path).values == ADDRESSES | {"three": "3=3"}


def test_grpc_ports_that_are_not_named_are_torchserves_own(tmp_path: Path) -> None:
    assert Properties.read(properties_file(tmp_path)).listens[3:] == [("127.0.0.1", 7070), ("127.0.0.1", 7071)]


@pytest.mark.parametrize("key", ADDRESSES)
@pytest.mark.parametrize(
    "value",
    ["", "127.0.0.1", "http://127.0.0.1", "http://127.0.0.1:", "http://127.0.0.1:abc", "http://127.0.0.1:99999"],
)
def test_an_address_without_a_port_is_named(key: str, value: str, tmp_path: Path) -> None:
    path = properties_file(tmp_path, **{key: value})
    with pytest.raises(CliError, match=rf"config\.properties: {key} must be"):
        Properties.read(path)


@pytest.mark.parametrize("key", ADDRESSES)
def test_a_missing_address_is_named(key: str, tmp_path: Path) -> None:
    path = tmp_path / "config.properties"
    path.write_text("".join(f"{name}={value}\n" for name, value in ADDRESSES.items() if name != key))
    with pytest.raises(CliError, match=rf"config\.properties: {key} must be"):
        Properties.read(path)


def test_an_ipv6_address_stays_one_on_another_port(tmp_path: Path) -> None:
    properties = Properties.read(properties_file(tmp_path, inference_address="http://[::1]:8080"))
    assert properties.on_port(9000).inference == "http://[::1]:9000"
    assert properties.on_port(9000).listens[0] == ("::1", 9000)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("max_request_size", "10MB", "a whole number, not 10MB"),
        ("grpc_inference_port", "many", "a whole number, not many"),
        ("job_queue_size", "", "a whole number, not empty"),
        ("disable_token_authorization", "perhaps", "true or false, not perhaps"),
    ],
)
def test_a_value_that_cannot_be_one_is_named_with_its_key(tmp_path: Path, key: str, value: str, reason: str) -> None:
    with pytest.raises(CliError, match=f"config.properties: {key} must be {reason}"):
        Properties.read(properties_file(tmp_path, **{key: value}))


def test_values_that_torchserve_takes_are_left_alone(tmp_path: Path) -> None:
    wanted = {"max_request_size": "1", "enable_model_api": "TRUE", "job_queue_size": "$$QUEUE$$"}
    assert Properties.read(properties_file(tmp_path, **wanted)).values.items() >= wanted.items()


def test_a_line_that_is_no_setting_is_named(tmp_path: Path) -> None:
    path = properties_file(tmp_path)
    path.write_text(path.read_text() + "max_request_size 10485760\n")
    with pytest.raises(
        CliError, match=r"config.properties: max_request_size 10485760 is not a setting; write key=value"
    ):
        Properties.read(path)


class TestPaths:
    """A configuration that names what is not there is refused before anything is made."""

    @pytest.fixture
    def elsewhere(self, tmp_path: Path) -> Path:
        """A copy of the repository's configuration in an empty folder."""
        return Path(shutil.copyfile(ROOT / "config.properties", tmp_path / "config.properties"))

    @pytest.mark.parametrize("name", ["config.properties", "deploy/config.properties"])
    def test_the_repositorys_own_are_there(self, name: str) -> None:
        Properties.read(ROOT / name).check_paths(ROOT / name)

    def test_the_checkouts_model_store_may_be_made_later(
        self, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(properties, "DEFAULT_ARCHIVE", elsewhere.with_name("model_store") / "densenet.mar")
        elsewhere.with_name("metrics.yaml").touch()
        Properties.read(elsewhere).check_paths(elsewhere)

    @pytest.mark.parametrize("key", ["model_store", "metrics_config", "private_key_file", "certificate_file"])
    def test_a_path_that_does_not_exist_is_named_with_its_key_and_its_beginning(
        self, key: str, elsewhere: Path
    ) -> None:
        paths = dict.fromkeys(("private_key_file", "certificate_file", "metrics_config"), str(ROOT / "metrics.yaml"))
        values = {"load_models": "densenet.mar", "model_store": str(ROOT), **paths, key: "not/there"}
        path = properties_file(elsewhere.parent, **values)
        with pytest.raises(CliError) as caught:
            Properties.read(path).check_paths(path)
        there = elsewhere.parent
        reason = f"{key} names {there / 'not' / 'there'}, which does not exist; relative paths begin at {there}"
        assert str(caught.value) == f"{path}: {reason}"

    def test_a_log_configuration_that_does_not_exist_is_named(self, elsewhere: Path) -> None:
        text = elsewhere.read_text().replace("=log4j2.xml", "=/not/there.xml")
        elsewhere.write_text(re.sub("=(model_store|metrics.yaml)$", rf"={ROOT}/\1", text, flags=re.MULTILINE))
        with pytest.raises(CliError, match=r"vmargs names /not/there\.xml, which does not exist"):
            Properties.read(elsewhere).check_paths(elsewhere)

    @pytest.mark.parametrize("value", ["all", "", "a.mar,b.mar", "model=a.mar", "store/a.mar"])
    def test_models_other_than_one_archive_are_refused(self, value: str, tmp_path: Path) -> None:
        path = properties_file(tmp_path, load_models=value, model_store=".")
        with pytest.raises(CliError, match="load_models must be the name of one archive"):
            Properties.read(path).check_paths(path)

    @pytest.mark.parametrize("key", ["load_models", "model_store"])
    def test_a_missing_archive_or_store_is_named(self, key: str, elsewhere: Path) -> None:
        elsewhere.write_text(re.sub(f"^{key}=.*$", "", elsewhere.read_text(), flags=re.MULTILINE))
        with pytest.raises(CliError, match=key):
            Properties.read(elsewhere).check_paths(elsewhere)

    def test_what_torchserve_takes_from_the_environment_is_left_alone(self, tmp_path: Path) -> None:
        path = properties_file(tmp_path, load_models="a.mar", model_store=".", metrics_config="$$METRICS$$")
        Properties.read(path).check_paths(path)
