"""Client of the service for Python and for the command line."""

from densenet_client.answers import Answer, Explanation, Model, Prediction
from densenet_client.async_client import AsyncClient
from densenet_client.client import Client, classify
from densenet_client.errors import NotTheService, RequestRejected, ServiceError, ServiceUnavailable, Unauthorized
from densenet_client.exchange import DEFAULT_URL

__all__ = [
    "DEFAULT_URL",
    "Answer",
    "AsyncClient",
    "Client",
    "Explanation",
    "Model",
    "NotTheService",
    "Prediction",
    "RequestRejected",
    "ServiceError",
    "ServiceUnavailable",
    "Unauthorized",
    "classify",
]
