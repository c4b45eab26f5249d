"""Asking a service of this checkout: with its tokens, where it wants some, and trusting its own certificate."""

from pathlib import Path
from typing import Any

import requests
from requests.auth import AuthBase

from densenet.service import tokens
from densenet.service.torchserve import Service
from export.console import Problem

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


class _Session(requests.Session):
    """Connections to one service, with its tokens."""

    def __init__(self, service: Service) -> None:
        super().__init__()
        self._service = service
        self.trust_env = False  # the service is on this machine: no proxy of the environment comes between
        self.verify = service.ca or True
        self.auth = _Token(service)

    def request(self, *args: Any, **kwargs: Any) -> requests.Response:
        """Asks once more where a token that was good when it was read was too old, or replaced, when it arrived."""
        answer = super().request(*args, **kwargs)
        if answer.status_code == requests.codes.bad_request and b'"InvalidKeyException"' in answer.content:
            self.renew()
            answer = super().request(*args, **kwargs)
        return answer

    def renew(self) -> None:
        """Replaces the tokens that have expired. Raises Problem where TorchServe does not."""
        for kind in ("inference", "management"):
            if tokens.has_expired(Path(self._service.folder), kind):
                url = f"{self._service.management}/token"
                answer = super().request("GET", url, params={"type": kind}, timeout=TIMEOUT)
                if not answer.ok:
                    raise Problem(f"TorchServe renews no {kind} token: {answer.text.strip()}")


def session(service: Service) -> requests.Session:
    """Connections to a service; close them, or use them in a `with` statement. Bodies are bytes: some are sent twice.

    Tokens that have expired are replaced first, which makes those that others hold invalid, as their age has anyhow.
    Raises Problem where TorchServe does not renew them.
    """
    made = _Session(service)
    made.renew()
    return made
