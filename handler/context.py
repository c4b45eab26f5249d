"""TorchServe's side of a batch, as far as the handler uses it."""

from collections.abc import Mapping
from typing import Any, Protocol


class Context(Protocol):
    """What the handler uses of TorchServe's ts.context.Context."""

    model_name: str
    manifest: Mapping[str, Any]
    model_yaml_config: Mapping[str, object] | None
    system_properties: Mapping[str, Any]

    def get_request_id(self, idx: int) -> str | None: ...
    def get_all_request_header(self, idx: int) -> Mapping[str, object]: ...
    def set_response_status(self, code: int, phrase: str, idx: int) -> None: ...
    def set_response_content_type(self, idx: int, value: str) -> None: ...
