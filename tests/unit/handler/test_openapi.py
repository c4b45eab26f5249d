"""The OpenAPI document against the code. Against a real service: tests/integration/test_openapi.py."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from jsonschema import ValidationError
from openapi_spec_validator import OpenAPIV31SpecValidator, validate

from densenet.service.properties import Properties
from export import ROOT
from handler import explaining, json_images, payload, protocols, reply
from handler.embedding import WIDTH
from handler.errors import ErrorCode, RequestError
from handler.options import LONGEST, MAX_TARGETS, Encoding, Norm, Options, Overlays, read_count
from handler.protocols import hugging_face, kserve_v1, native, open_inference
from handler.reply import Reply
from handler.request import MAX_OVERLAY_IMAGES
from handler.settings import _RANGES, MAX_TOP_K, Settings, default_min_probability
from tests.openapi import DOCUMENT, check, resolve

SCHEMAS = DOCUMENT["components"]["schemas"]
MODEL = {"name": "densenet", "version": "1.0"}
PROTOCOLS = {
    "image": protocols.NATIVE,
    "instances": protocols.NATIVE_INSTANCES,
    "v1": protocols.KSERVE_V1,
    "v2": protocols.OPEN_INFERENCE,
    "hugging face": protocols.HUGGING_FACE,
}


def walk(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every object of the document with its path."""
    if isinstance(node, dict):
        yield path, node
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, child in children:
        yield from walk(child, (*path, str(key)))


def examples() -> Iterator[Any]:
    """(schema, value) wherever an example stands beside a schema."""
    for path, node in walk(DOCUMENT):
        if "schema" in node:
            values = {name: resolve(value)["value"] for name, value in node.get("examples", {}).items()}
            values |= {"": node["example"]} if "example" in node else {}
            for name, value in values.items():
                yield pytest.param(node["schema"], value, id=" ".join([*path[1:], name]))


def operations() -> dict[str, dict[str, Any]]:
    return {f"{method} {path}": item[method] for path, item in DOCUMENT["paths"].items() for method in item}


def test_it_is_valid_openapi_3_1() -> None:
    validate(DOCUMENT, cls=OpenAPIV31SpecValidator)


HEALTH = "application/health+json"


def test_health_is_served_as_described() -> None:
    healthy = reply.negotiate({"accept": HEALTH})
    assert healthy is not None
    assert (healthy.status, healthy.content_type) == (200, HEALTH)
    check(json.loads(healthy.body), described("get", 200)["content"][HEALTH]["schema"])
    away = reply.draining_response(healthy, {"accept": HEALTH})
    assert (away.content_type, away.headers["Retry-After"]) == (HEALTH, "1")
    check(json.loads(away.body), described("get", 503)["content"][HEALTH]["schema"])


def test_it_is_served_as_json_of_openapis_media_type() -> None:
    served = reply.description()
    assert json.loads(served.body) == DOCUMENT
    assert list(described("get", 200)["content"]) == ["text/html", served.content_type, HEALTH]


@pytest.mark.parametrize(("schema", "value"), list(examples()))
def test_an_example_is_as_its_schema_says(schema: dict[str, Any], value: object) -> None:
    check(value, schema)


def test_every_component_is_used() -> None:
    used = {node["$ref"] for _, node in walk(DOCUMENT) if "$ref" in node}
    there = {f"#/components/{kind}/{name}" for kind, named in DOCUMENT["components"].items() for name in named}
    assert there == used


def test_every_address_that_reaches_the_handler_is_there_and_torchserves_own() -> None:
    assert list(operations()) == [
        "get /predictions/densenet",
        "post /predictions/densenet",
        "put /predictions/densenet",
        "post /predictions/densenet/{version}",
        "post /explanations/densenet",
        "put /explanations/densenet",
        "post /models/densenet/invoke",
        "post /v1/models/densenet:predict",
        "post /v1/models/densenet:explain",
        "post /v2/models/densenet/infer",
        "get /ping",
    ]


def described(method: str, status: int) -> Any:
    return resolve(DOCUMENT["paths"]["/predictions/densenet"][method]["responses"][str(status)])


def allowing(answer: Reply, operation: dict[str, Any]) -> set[str]:
    """The statuses of an operation whose schema allows an answer."""
    allowed = set()
    for status, response in operation["responses"].items():
        try:
            check(json.loads(answer.body), resolve(response)["content"][answer.content_type]["schema"])
        except (KeyError, ValidationError):
            continue
        allowed.add(status)
    return allowed


@pytest.mark.parametrize("code", ErrorCode)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_refusal_of_any_protocol_stands_at_its_status_and_at_no_other(protocol: str, code: ErrorCode) -> None:
    refusal = PROTOCOLS[protocol].refuse(RequestError(code, "why"))
    assert allowing(refusal, operations()["post /predictions/densenet"]) == {str(refusal.status)}
    for operation in operations().values():
        assert allowing(refusal, operation) <= {str(refusal.status)}


@pytest.mark.parametrize("code", ErrorCode)
def test_a_code_is_explained_at_its_status(code: ErrorCode) -> None:
    assert f"`{code}`: " in described("post", code.status)["description"]


def test_the_codes_are_those_of_the_handler() -> None:
    assert SCHEMAS["ErrorCode"]["enum"] == list(ErrorCode)


def test_top_k_has_the_handlers_range() -> None:
    low, high = SCHEMAS["TopK"]["minimum"], SCHEMAS["TopK"]["maximum"]
    assert (low, high) == (1, MAX_TOP_K)
    assert [read_count("top_k", value) for value in (low, high)] == [low, high]
    for outside in (low - 1, high + 1):
        with pytest.raises(RequestError):
            read_count("top_k", outside)


def test_min_probability_has_the_handlers_range() -> None:
    low, high = SCHEMAS["MinProbability"]["minimum"], SCHEMAS["MinProbability"]["maximum"]
    for inside in (low, high):
        assert Options.read({"min_probability": inside}, Settings()).min_probability == inside
    for outside in (low - 0.01, high + 0.01):
        with pytest.raises(RequestError):
            Options.read({"min_probability": outside}, Settings())


def names_of(operation: str, place: str) -> list[str]:
    parameters = [resolve(parameter) for parameter in operations()[operation]["parameters"]]
    return [parameter["name"] for parameter in parameters if parameter["in"] == place]


def test_every_option_is_there_as_header_query_field_and_parameter() -> None:
    *headers, binary = names_of("post /models/densenet/invoke", "header")
    why = names_of("post /explanations/densenet", "header")
    assert {header.lower() for header in [*headers, *why]} == set(payload.OPTION_HEADERS)
    assert binary.lower() == payload._JSON_LENGTH
    predicting = [*native.OPTIONS, "format"]
    assert names_of("post /models/densenet/invoke", "query") == predicting
    assert [payload.OPTION_HEADERS[header.lower()] for header in headers] == predicting
    assert [payload.OPTION_HEADERS[header.lower()] for header in why] == list(payload.EXPLAINING)
    for form, options in (("Form", predicting), ("ExplainForm", payload.EXPLAINING)):
        assert list(SCHEMAS[form]["properties"]) == ["file", *options]
    for request, options in {
        "InstancesRequest": native.OPTIONS,
        "ExplainInstancesRequest": payload.EXPLAINING,
        "TensorsRequest": open_inference._PARAMETERS,
        "HuggingFaceRequest": hugging_face._OPTIONS,
    }.items():
        parameters = SCHEMAS[request]["properties"]["parameters"]
        assert (list(parameters["properties"]), parameters["additionalProperties"]) == (list(options), False)


def test_names_that_a_request_may_hold_are_the_handlers() -> None:
    assert SCHEMAS["Format"]["const"] == hugging_face.FORMAT
    functions = SCHEMAS["HuggingFaceRequest"]["properties"]["parameters"]["properties"]["function_to_apply"]
    assert functions["enum"] == list(hugging_face._SCORES)
    assert SCHEMAS["OutputName"]["enum"] == list(open_inference._OUTPUTS)
    assert SCHEMAS["TensorsRequest"]["properties"]["outputs"]["maxItems"] == len(open_inference._OUTPUTS)
    assert tuple(SCHEMAS["Instance"]["anyOf"][1]["properties"]) == (*kserve_v1._NAMES, *kserve_v1._BESIDE)
    assert SCHEMAS["EmbeddingEncoding"]["enum"] == list(Encoding)
    assert SCHEMAS["EmbeddingNorm"]["enum"] == list(Norm)
    assert hugging_face._NORMALIZE in SCHEMAS["HuggingFaceRequest"]["properties"]


def test_embeddings_have_the_networks_width() -> None:
    numbers, base64 = SCHEMAS["EmbeddingNumbers"], SCHEMAS["Prediction"]["properties"]["embedding"]["anyOf"][1]
    assert numbers["minItems"] == numbers["maxItems"] == SCHEMAS["OutputShape"]["items"]["maximum"] == WIDTH
    length = -(-4 * WIDTH // 3) * 4
    assert (base64["minLength"], base64["maxLength"]) == (length, length)
    assert SCHEMAS["OutputTensor"]["oneOf"][-2]["properties"]["data"]["minItems"] == WIDTH
    assert f"{WIDTH} numbers" in SCHEMAS["EmbeddingEncoding"]["description"]
    outputs = json.loads(open_inference.metadata(MODEL).body)["outputs"]
    (output,) = (row for row in outputs if row["name"] == "embedding")
    assert (output["datatype"], output["shape"]) == ("FP32", [-1, WIDTH])


def test_explanations_have_the_handlers_numbers() -> None:
    assert SCHEMAS["Overlays"]["enum"] == list(Overlays)
    targets = SCHEMAS["ExplainInstancesRequest"]["properties"]["parameters"]["properties"]["target"]["anyOf"][1]
    assert targets["maxItems"] == SCHEMAS["ExplanationsOfImage"]["maxItems"] == MAX_TARGETS
    assert f"up to {MAX_TARGETS}" in SCHEMAS["Target"]["description"]
    assert f"at most {MAX_OVERLAY_IMAGES} overlay images" in " ".join(SCHEMAS["Overlays"]["description"].split())
    assert f"more than {MAX_OVERLAY_IMAGES} overlay images" in described("post", 413)["description"]
    rows = SCHEMAS["Explanation"]["properties"]["map"]
    assert {side[key] for side in (rows, rows["items"]) for key in ("minItems", "maxItems")} == {explaining.GRID_SIZE}
    assert f"at most {LONGEST} pixels" in SCHEMAS["Explanation"]["properties"]["picture"]["description"]


def test_preprocessed_images_have_the_networks_shape() -> None:
    nested, flat = SCHEMAS["PreprocessedImage"]["oneOf"]
    planes, rows, columns = nested, nested["items"], nested["items"]["items"]
    channels, height, width = json_images.IMAGE_SHAPE
    assert [side[key] for side in (planes, rows, columns) for key in ("minItems", "maxItems")] == [
        *(channels, channels),
        *(height, height),
        *(width, width),
    ]
    assert flat["minItems"] == flat["maxItems"] == channels * height * width
    _, *image = SCHEMAS["PreprocessedImages"]["properties"]["shape"]["prefixItems"]
    assert image == [{"const": side} for side in json_images.IMAGE_SHAPE]


def test_lists_may_be_as_long_as_any_operator_can_allow() -> None:
    _, most = _RANGES["max_images"]
    for request in ("InstancesRequest", "ExplainInstancesRequest"):
        assert SCHEMAS[request]["properties"]["instances"]["maxItems"] == most
    assert SCHEMAS["EncodedImages"]["properties"]["data"]["anyOf"][0]["maxItems"] == most
    assert SCHEMAS["HuggingFaceRequest"]["properties"]["inputs"]["anyOf"][1]["maxItems"] == most
    assert SCHEMAS["Embeddings"]["maxItems"] == most
    answers = [("Results", "results"), ("Predictions", "predictions"), ("ExplainedResults", "results")]
    for answer, images in [*answers, ("Explanations", "predictions"), ("Explanations", "explanations")]:
        assert SCHEMAS[answer]["properties"][images]["maxItems"] == most
    assert SCHEMAS["ImageCount"]["anyOf"][0]["maximum"] == most
    assert SCHEMAS["PreprocessedImages"]["properties"]["shape"]["prefixItems"][0]["maximum"] == most


def defaults() -> list[str]:
    settings = Settings()
    body = int(Properties.read(ROOT / "config.properties").values["max_request_size"])
    queue = yaml.safe_load((ROOT / "handler" / "model-config.yaml").read_text())["jobQueueSize"]
    return [
        f"{settings.max_images} images in a request",
        f"{settings.max_image_pixels // 1_000_000} million pixels in an image",
        f"{body // 2**20} MiB in a request",
        f"{settings.max_response_bytes // 1_000_000} MB in an answer",
        f"{settings.top_k} classes",
        f"{settings.min_probability} as minimum probability",
        f"{default_min_probability(1000)} as minimum probability (fewer than 25 classes: 1/√classes, which is "
        f"{default_min_probability(2)} for two and {default_min_probability(5)} for five)",
        f"`too_many_images`: more than {settings.max_images} in a request",
        f"`too_many_pixels`: more than {settings.max_image_pixels // 1_000_000} million in an image",
        f"{settings.decode_seconds:g} seconds of processor time for an image, {settings.request_seconds:g} for those",
        f"{settings.decode_memory // 1_000_000} MB of memory",
        f"{settings.max_request_pixels // 1_000_000} million pixels for the images of a request",
        f"a body of more than {body // 2**20} MiB",
        f"{queue} requests are waiting",
    ]


@pytest.mark.parametrize("default", defaults())
def test_a_default_that_an_operator_can_change_is_told_as_it_is(default: str) -> None:
    told = " ".join(node["description"] for _, node in walk(DOCUMENT) if isinstance(node.get("description"), str))
    assert default in " ".join(told.split())
