"""Read TorchServe's config.properties, change its ports, and write it for one start."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from export import DEFAULT_ARCHIVE, ROOT
from export.console import CliError

_ADDRESSES = ("inference_address", "management_address", "metrics_address")
_GRPC_PORTS = ("grpc_inference_port", "grpc_management_port")
_PATHS = ("model_store", "metrics_config", "private_key_file", "certificate_file")
_LOG4J = "-Dlog4j.configurationFile="
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}
# For an invalid number TorchServe prints only 'For input string: "…"', sometimes after it has begun to serve, and it
# takes a switch that is neither true nor false for false. We check both before it starts.
_NUMBERS = (
    *("max_request_size", "max_response_size", "job_queue_size", "number_of_netty_threads", "netty_client_threads"),
    *("default_workers_per_model", "default_response_timeout", "default_startup_timeout", "unregister_model_timeout"),
    *("number_of_gpu", "metric_time_interval", "initial_worker_port", *_GRPC_PORTS),
)
_SWITCHES = (
    *("disable_token_authorization", "enable_model_api", "enable_metrics_api", "disable_system_metrics"),
    *("decode_input_request", "enable_envvars_config", "enable_grpc_ssl", "install_py_dep_per_model"),
    *("limit_max_image_pixels", "prefer_direct_buffer", "use_env_allowed_urls", "use_native_io", "async_logging"),
)


@dataclass(frozen=True)
class Properties:
    """The settings of config.properties, with absolute paths."""

    values: Mapping[str, str]

    @classmethod
    def read(cls, path: Path) -> "Properties":
        """Read a file.

        Raises:
            CliError: for a line that is not a setting, an invalid value, or a missing address.
        """
        lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
        settings = [line for line in lines if line and not line.startswith(("#", "!"))]
        if odd := next((line for line in settings if "=" not in line), None):
            raise CliError(f"{path}: {odd[:80]} is not a setting; write key=value")
        pairs = (line.partition("=") for line in settings)
        values = {key.strip(): value.strip() for key, _, value in pairs}
        values |= {key: os.path.normpath(path.absolute().parent / values[key]) for key in _PATHS if key in values}
        _check(path, values)
        properties = cls(values)
        for key in _ADDRESSES:
            if not _port(values.get(key, "")):
                raise CliError(f"{path}: {key} must be an address with a port such as http://127.0.0.1:8080")
        return properties

    def check_paths(self, source: Path) -> None:
        """Check that the files and folders exist which the settings of the file `source` name.

        The checkout's own model store may be missing; packing an archive makes it.

        Raises:
            CliError: for a path that does not exist, or if the settings do not name one archive.
        """
        archive = self.values.get("load_models", "")
        if not re.fullmatch(r"[^,/=]+\.mar", archive):
            raise CliError(f"{source}: load_models must be the name of one archive, not {archive or 'empty'}")
        if "model_store" not in self.values:
            raise CliError(f"{source}: model_store is missing; name the folder of {archive}")
        for key in _PATHS:
            path = Path(self.values.get(key, source))
            exists = path.is_dir() or path == DEFAULT_ARCHIVE.parent if key == "model_store" else path.is_file()
            # TorchServe replaces $$VARIABLE$$; see _check().
            if not exists and "$$" not in str(path):
                where = f"relative paths begin at {source.absolute().parent}"
                raise CliError(f"{source}: {key} names {path}, which does not exist; {where}")
        for word in self.vmargs:
            if word.startswith(_LOG4J) and not Path(word.removeprefix(_LOG4J)).is_file():
                raise CliError(f"{source}: vmargs names {word.removeprefix(_LOG4J)}, which does not exist")

    def on_port(self, port: int) -> "Properties":
        """Return a copy that listens on port…port+4: inference, management, metrics, and gRPC's two ports.

        Workers that listen on TCP ports take those after them.
        """
        moved = {key: self._on_port(key, port + i) for i, key in enumerate(_ADDRESSES)}
        moved |= {key: str(port + len(_ADDRESSES) + i) for i, key in enumerate(_GRPC_PORTS)}
        # Used where TorchServe's Java has no native library for Unix sockets; two services must not use the same.
        moved["initial_worker_port"] = str(port + len(moved))
        return Properties({**self.values, **moved})

    def with_access(self, *, tokens: bool, model_api: bool) -> "Properties":
        """Return a copy that requires tokens, or accepts models over the management API; False changes nothing."""
        changed = {"disable_token_authorization": "false"} if tokens else {}
        changed |= {"enable_model_api": "true"} if model_api else {}
        return Properties({**self.values, **changed})

    def write(self, path: Path) -> None:
        """Write the settings in the format that TorchServe reads."""
        path.write_text("".join(f"{key}={value}\n" for key, value in self.values.items()), encoding="utf-8")

    @property
    def inference(self) -> str:
        """The base URL for predictions, as seen from this machine."""
        return self._local_address("inference_address")

    @property
    def management(self) -> str:
        """The base URL of the management API, as seen from this machine."""
        return self._local_address("management_address")

    @property
    def certificate(self) -> str | None:
        """The file with the service's certificate, if it uses TLS."""
        return self.values.get("certificate_file") if self.inference.startswith("https:") else None

    @property
    def model_api_enabled(self) -> bool:
        """Whether models can be registered while the service runs."""
        return self.values.get("enable_model_api") == "true"

    @property
    def requires_tokens(self) -> bool:
        """Whether requests need a token, which is TorchServe's default."""
        return self.values.get("disable_token_authorization") != "true"

    @property
    def vmargs(self) -> list[str]:
        """The JVM's options, with the log configuration's path, which is relative to the checkout, made absolute."""
        words = self.values.get("vmargs", "").split()
        return [f"{_LOG4J}{ROOT / word.removeprefix(_LOG4J)}" if word.startswith(_LOG4J) else word for word in words]

    @property
    def port(self) -> int:
        """The inference port, which identifies a service."""
        return urlsplit(self.inference).port or 0

    @property
    def listens(self) -> list[tuple[str, int]]:
        """Every host and port that TorchServe binds."""
        rest = [urlsplit(self.values[key]) for key in _ADDRESSES]
        grpc = [
            (self.values.get(key.replace("port", "address"), "127.0.0.1"), int(self.values.get(key, default)))
            for key, default in zip(_GRPC_PORTS, ("7070", "7071"), strict=True)
        ]
        return [(url.hostname or "127.0.0.1", url.port or 0) for url in rest] + grpc

    @property
    def archive(self) -> Path:
        """The archive that TorchServe loads when it starts."""
        return Path(self.values["model_store"], self.values["load_models"])

    def _on_port(self, key: str, port: int) -> str:
        url = urlsplit(self.values[key])
        return f"{url.scheme}://{host_and_port(url.hostname or '', port)}"

    def _local_address(self, key: str) -> str:
        url = urlsplit(self.values[key])
        host = url.hostname or ""
        return f"{url.scheme}://{host_and_port(_WILDCARDS.get(host, host), url.port or 0)}"


def host_and_port(host: str, port: int) -> str:
    """Return HOST:PORT, with an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _check(path: Path, values: Mapping[str, str]) -> None:
    for keys, form, kind in ((_NUMBERS, r"\d{1,10}", "a whole number"), (_SWITCHES, "true|false", "true or false")):
        for key in keys:
            value = values.get(key, "")
            # TorchServe replaces $$VARIABLE$$ by the environment variable's value, which is not known here.
            if key in values and "$$" not in value and not re.fullmatch(form, value, re.IGNORECASE):
                raise CliError(f"{path}: {key} must be {kind}, not {value or 'empty'}")


def _port(address: str) -> int | None:
    try:
        return urlsplit(address).port
    except ValueError:
        return None
