"""HTTP sessions to a service of this checkout, with its tokens if it requires them, and trusting its certificate."""

from pathlib import Path
from typing import Any

import requests
from requests.auth import AuthBase

from densenet.service import tokens
from densenet.service.torchserve import Service
from export.console import CliError

TIMEOUT = 10  # seconds to wait for a response that needs neither the queue nor a model to be loaded


class _Token(AuthBase):
    """Adds the token that the requested address needs: token renewal, management and inference have one each."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        folder, url = Path(self._service.folder), request.url or ""
        if url.startswith(f"{self._service.management}/token?"):
            token = tokens.renewal_token(folder)
        else:
            token = tokens.current(folder, "management" if url.startswith(self._service.management) else "inference")
        if token:
            request.headers["Authorization"] = f"Bearer {token}"
        return request


class _Session(requests.Session):
    """A requests session that sends the service's tokens."""

    def __init__(self, service: Service) -> None:
        super().__init__()
        self._service = service
        self.trust_env = False  # the service runs on this machine, so the environment's proxies must not be used
        self.verify = service.ca or True
        self.auth = _Token(service)

    def request(self, *args: Any, **kwargs: Any) -> requests.Response:
        """Send a request; send it again with a new token if the token expired or was replaced on the way."""
        response = super().request(*args, **kwargs)
        if response.status_code == requests.codes.bad_request and b'"InvalidKeyException"' in response.content:
            self.renew()
            response = super().request(*args, **kwargs)
        return response

    def renew(self) -> None:
        """Replace the tokens that have expired.

        Raises:
            CliError: if TorchServe does not renew them.
        """
        for kind in ("inference", "management"):
            if tokens.has_expired(Path(self._service.folder), kind):
                url = f"{self._service.management}/token"
                response = super().request("GET", url, params={"type": kind}, timeout=TIMEOUT)
                if not response.ok:
                    raise CliError(f"TorchServe did not renew the {kind} token: {response.text.strip()}")


def session(service: Service) -> requests.Session:
    """Return a session for a service; close it, or use it in a `with` statement.

    Pass request bodies as bytes, since the session may send them twice. Expired tokens are replaced first; copies of
    them that others hold have expired as well.

    Raises:
        CliError: if TorchServe does not renew the tokens.
    """
    http = _Session(service)
    http.renew()
    return http
