"""Asking a service of this checkout: with its tokens, where it wants some, and trusting its own certificate."""

from pathlib import Path

import requests
from requests.auth import AuthBase

from console import Problem
from service import tokens
from service.torchserve import Service

TIMEOUT = 10  # seconds for an answer that involves no loading of a model and no queue


class _Token(AuthBase):
    """The token for the address asked: the renewing of tokens has one, management another, the rest a third."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        folder, url = Path(self._service.folder), request.url or ""
        if url.startswith(f"{self._service.management}/token?"):
            token = tokens.renewing(folder)
        else:
            token = tokens.current(folder, "management" if url.startswith(self._service.management) else "inference")
        if token:
            request.headers["Authorization"] = f"Bearer {token}"
        return request


def session(service: Service) -> requests.Session:
    """Connections to a service; close them, or use them in a `with` statement.

    Tokens that have expired are replaced first, which makes those that others hold invalid, as their age has anyhow.
    Raises Problem where TorchServe does not renew them.
    """
    made = requests.Session()
    made.trust_env = False  # the service is on this machine: no proxy of the environment comes between
    made.verify = service.ca or True
    made.auth = _Token(service)
    for kind in ("inference", "management"):
        if tokens.has_expired(Path(service.folder), kind):
            _renew(made, service, kind)
    return made


def _renew(asking: requests.Session, service: Service, kind: str) -> None:
    answer = asking.get(f"{service.management}/token", params={"type": kind}, timeout=TIMEOUT)
    if not answer.ok:
        raise Problem(f"TorchServe renews no {kind} token: {answer.text.strip()}")
