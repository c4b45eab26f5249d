"""The part of TorchServe's context that the handler uses."""

from collections.abc import Mapping
from typing import Any, Protocol


class Context(Protocol):
    """The attributes and methods of ts.context.Context that the handler uses."""

    model_name: str
    manifest: Mapping[str, Any]
    model_yaml_config: Mapping[str, object] | None
    system_properties: Mapping[str, Any]
    metrics: Any

    def get_request_id(self, idx: int) -> str | None:
        """Return TorchServe's id of the request at this row."""

    def get_all_request_header(self, idx: int) -> Mapping[str, object]:
        """Return the request headers of a row; for each form part there is a mapping with the part's own headers."""

    def set_response_status(self, code: int, phrase: str, idx: int) -> None:
        """Set the HTTP status of a row's response."""

    def set_response_content_type(self, idx: int, value: str) -> None:
        """Set the content type of a row's response."""

    def set_response_header(self, idx: int, key: str, value: str) -> None:
        """Add a header to a row's response."""
