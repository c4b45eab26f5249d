"""handler/openapi.yaml, and whether what was seen is as it says."""

from collections.abc import Mapping
from typing import Any

import requests
import yaml
from jsonschema import Draft202012Validator

from export import ROOT
from handler.reply import DESCRIPTION

DOCUMENT: dict[str, Any] = yaml.safe_load((ROOT / "handler" / DESCRIPTION).read_text(encoding="utf-8"))


def resolve(node: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a reference stands for; anything else itself."""
    while "$ref" in node:
        parent: Any = DOCUMENT
        for key in node["$ref"].removeprefix("#/").split("/"):
            parent = parent[key]
        node = parent
    return node


def component(name: str) -> Mapping[str, Any]:
    """A schema by its name."""
    return {"$ref": f"#/components/schemas/{name}"}


def check(value: object, schema: Mapping[str, Any]) -> None:
    """Raises jsonschema's ValidationError unless the value is as a schema of the document says."""
    # With the components beside it the schema's references lead where they do in the document.
    rooted = {**schema, "components": DOCUMENT["components"]}
    Draft202012Validator(rooted, format_checker=Draft202012Validator.FORMAT_CHECKER).validate(value)


def check_response(response: requests.Response, path: str, method: str) -> Mapping[str, Any] | None:
    """Raises unless status, content type, headers and body are documented for a path and method of the document.

    Returns the schema that held; None where there is no body, and none is documented.
    """
    documented = resolve(DOCUMENT["paths"][path][method]["responses"][str(response.status_code)])
    if not response.content:
        assert "without a body" in documented["description"]
        return None
    for name, header in documented.get("headers", {}).items():
        header = resolve(header)
        assert name in response.headers or not header.get("required"), name
        if name in response.headers:
            text = response.headers[name]
            check(int(text) if header["schema"]["type"] == "integer" else text, header["schema"])
    media_type = response.headers["Content-Type"].partition(";")[0]
    schema: Mapping[str, Any] = documented["content"][media_type]["schema"]
    check(response.json() if media_type.endswith("json") else response.content.decode("latin-1"), schema)
    return schema
