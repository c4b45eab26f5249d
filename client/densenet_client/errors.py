"""What can go wrong: the service refuses an image, or there is no answer about it."""


class Refused(Exception):
    """The service refused the image, or an option.

    code: one of the stable error codes, for programs; message: the service's words, saying what to send instead;
    status: of HTTP.
    """

    def __init__(self, code: str, message: str, status: int) -> None:
        super().__init__(code, message, status)  # all three, or it could not be pickled
        self.code = code
        self.message = message
        self.status = status

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class ServiceError(Exception):
    """No answer about the image: the service is not there, too slow, or failed, or this is not the service."""


class NotThere(ServiceError):
    """Nothing listens at the address."""


class Unauthorized(ServiceError):
    """The service, or a proxy before it, asks for a token, or does not accept the one it was given."""


class Unavailable(ServiceError):
    """Busy just now (503, 429), or the connection was lost: what another try may mend. Raised once none is left.

    retry_after: seconds after which the service asks to be tried again, where it says so.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after
