"""The service from Python, and from the command line."""

from client.answers import Answer, Explanation, Model, Prediction
from client.client import DEFAULT_URL, Client, classify
from client.errors import NotThere, Refused, ServiceError, Unauthorized

__all__ = [
    "DEFAULT_URL",
    "Answer",
    "Client",
    "Explanation",
    "Model",
    "NotThere",
    "Prediction",
    "Refused",
    "ServiceError",
    "Unauthorized",
    "classify",
]
