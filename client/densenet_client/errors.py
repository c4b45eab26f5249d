"""The client's errors: the service rejects a request, or there is no answer."""


class RequestRejected(Exception):
    """The service rejected the image or an option.

    code: a stable error code for programs. message: the service's text, which says what to send instead. status: the
    HTTP status.
    """

    def __init__(self, code: str, message: str, status: int) -> None:
        super().__init__(code, message, status)  # pickle needs all three arguments
        self.code = code
        self.message = message
        self.status = status

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class ServiceError(Exception):
    """There is no answer: the service is unavailable, too slow or failing, or the URL is not the service's."""


class ServiceUnavailable(ServiceError):
    """Nothing listens at the URL."""


class Unauthorized(ServiceError):
    """The service, or a proxy before it, requires a token or rejects the one that was sent."""


class NotTheService(ServiceError):
    """Another program answers at the URL, or the service has nothing there: a page, a redirect, other JSON."""


class Unavailable(ServiceError):
    """The service is busy (503, 429) or the connection was lost. Raised after the last attempt.

    retry_after: seconds from the service's Retry-After header, if it sent one.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after
