"""What a request can be answered with instead of what it asked for."""

from typing import Any


class ApiError(Exception):
    """An answer with a 4xx status and Peaka's error body: `code`, `message`, `reason`, sometimes `errorCode`."""

    def __init__(self, status: int, message: str, reason: str, error_code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body: dict[str, Any] = {"code": status, "message": message, "reason": reason}
        if error_code is not None:
            self.body["errorCode"] = error_code


def bad_request(message: str) -> ApiError:
    """400: the request has to be changed."""
    return ApiError(400, message, "BAD_REQUEST")


def not_found(message: str) -> ApiError:
    """404: there is no such thing."""
    return ApiError(404, message, "NOT_FOUND")
