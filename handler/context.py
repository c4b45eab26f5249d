"""TorchServe's side of a batch, as far as the handler uses it."""

from collections.abc import Mapping
from typing import Any, Protocol


class Context(Protocol):
    """What the handler uses of TorchServe's ts.context.Context."""

    model_name: str
    manifest: Mapping[str, Any]
    model_yaml_config: Mapping[str, object] | None
    system_properties: Mapping[str, Any]
    metrics: Any

    def get_request_id(self, idx: int) -> str | None:
        """TorchServe's own id of a row's request."""

    def get_all_request_header(self, idx: int) -> Mapping[str, object]:
        """A row's request headers, and an object for every part of a form."""

    def set_response_status(self, code: int, phrase: str, idx: int) -> None:
        """The status of a row's answer."""

    def set_response_content_type(self, idx: int, value: str) -> None:
        """The content type of a row's answer."""

    def set_response_header(self, idx: int, key: str, value: str) -> None:
        """One more header of a row's answer."""
