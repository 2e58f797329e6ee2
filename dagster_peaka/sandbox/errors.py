"""What a request can be answered with instead of what it asked for."""

from typing import Any


class ApiError(Exception):
    """An answer with a 4xx or 5xx status. `more` is what its body has beside the usual."""

    def __init__(self, status: int, message: str, reason: str, **more: str | None) -> None:
        super().__init__(message)
        self.status, self.headers = status, dict[str, str]()
        self._usual: dict[str, Any] = {"code": status, "message": message, "reason": reason}
        self._more = more

    def body(self, shape: str) -> dict[str, Any]:
        """Peaka's error body, of a shape that `Behaviour.error_body` names.

        Two bodies were seen. That the one belongs to 400 and the other to the rest is a guess.
        """
        if shape == "documented":
            return {**self._usual, **self._more}
        if self.status != 400:
            return {"errorCode": 100, "message": str(self)}
        code = self._more.get("errorCode")
        return {"error": "WrongRequestException", "message": str(self), "errorCode": code}


def bad_request(message: str) -> ApiError:
    return ApiError(400, message, "BAD_REQUEST")


def not_found(message: str) -> ApiError:
    return ApiError(404, message, "NOT_FOUND")


def server_error(message: str) -> ApiError:
    return ApiError(500, message, "INTERNAL_SERVER_ERROR")


def no_query(query_id: str, status: str) -> ApiError:
    """What a stored query that does not exist answers, by `Behaviour.missing_query`."""
    missing = f"There is no query {ascii(query_id)[:100]} in this project."
    return not_found(missing) if status == "404" else bad_request(missing)
