"""TorchServe's config.properties: read, moved to other ports, written for one start."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from console import Problem

_ADDRESSES = ("inference_address", "management_address", "metrics_address")
_GRPC_PORTS = ("grpc_inference_port", "grpc_management_port")
_PATHS = ("model_store",)


@dataclass(frozen=True)
class Properties:
    """What config.properties says, with paths made absolute."""

    values: Mapping[str, str]

    @classmethod
    def read(cls, path: Path) -> "Properties":
        """Raises Problem where one of the addresses is missing or none."""
        lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
        pairs = (line.partition("=") for line in lines if line and not line.startswith(("#", "!")))
        values = {key.strip(): value.strip() for key, _, value in pairs}
        values |= {key: str(path.parent / values[key]) for key in _PATHS if key in values}
        properties = cls(values)
        for key in _ADDRESSES:
            if not _port(values.get(key, "")):
                raise Problem(f"{path}: {key} must be an address with a port such as http://127.0.0.1:8080")
        return properties

    def on_port(self, port: int) -> "Properties":
        """The same on port…port+4: inference, management, metrics, and the two of gRPC, which always listen."""
        moved = {key: self._moved(key, port + i) for i, key in enumerate(_ADDRESSES)}
        moved |= {key: str(port + len(_ADDRESSES) + i) for i, key in enumerate(_GRPC_PORTS)}
        return Properties({**self.values, **moved})

    def write(self, path: Path) -> None:
        """Writes them in the form that TorchServe reads."""
        path.write_text("".join(f"{key}={value}\n" for key, value in self.values.items()), encoding="utf-8")

    @property
    def inference(self) -> str:
        """The base address of predictions."""
        return self.values["inference_address"]

    @property
    def management(self) -> str:
        """The base address of the management API."""
        return self.values["management_address"]

    @property
    def port(self) -> int:
        """The inference port, by which a service is known."""
        return urlsplit(self.inference).port or 0

    @property
    def listens(self) -> list[tuple[str, int]]:
        """Every host and port that TorchServe will bind."""
        rest = [urlsplit(self.values[key]) for key in _ADDRESSES]
        grpc = [
            (self.values.get(key.replace("port", "address"), "127.0.0.1"), int(self.values.get(key, default)))
            for key, default in zip(_GRPC_PORTS, ("7070", "7071"), strict=True)
        ]
        return [(url.hostname or "127.0.0.1", url.port or 0) for url in rest] + grpc

    @property
    def archive(self) -> Path:
        """The one archive that is loaded at start."""
        return Path(self.values["model_store"], self.values["load_models"])

    def _moved(self, key: str, port: int) -> str:
        url = urlsplit(self.values[key])
        host = f"[{url.hostname}]" if ":" in (url.hostname or "") else url.hostname
        return f"{url.scheme}://{host}:{port}"


def _port(address: str) -> int | None:
    try:
        return urlsplit(address).port
    except ValueError:
        return None
