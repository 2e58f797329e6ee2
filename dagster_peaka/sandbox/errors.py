"""What a request can be answered with instead of what it asked for."""

from typing import Any


class ApiError(Exception):
    """An answer with a 4xx or 5xx status. `with_code` says that its body has an `errorCode`, even if that is null."""

    def __init__(
        self,
        status: int,
        message: str,
        reason: str,
        error_code: str | None = None,
        *,
        with_code: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers: dict[str, str] = {}
        self._reason = reason
        self._error_code = error_code
        self._with_code = with_code or error_code is not None

    def body(self, shape: str) -> dict[str, Any]:
        """Peaka's error body, of a shape that `Behaviour.error_body` names.

        Two bodies were seen. That the one belongs to 400 and the other to the rest is a guess.
        """
        message = str(self)
        if shape == "observed":
            if self.status == 400:
                return {"error": "WrongRequestException", "message": message, "errorCode": self._error_code}
            return {"errorCode": 100, "message": message}
        body: dict[str, Any] = {"code": self.status, "message": message, "reason": self._reason}
        if self._with_code:
            body["errorCode"] = self._error_code
        return body


def bad_request(message: str) -> ApiError:
    return ApiError(400, message, "BAD_REQUEST")


def not_found(message: str) -> ApiError:
    return ApiError(404, message, "NOT_FOUND")


def server_error(message: str) -> ApiError:
    return ApiError(500, message, "INTERNAL_SERVER_ERROR")
