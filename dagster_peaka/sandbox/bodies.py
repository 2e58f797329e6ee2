"""Reading what a request brings: JSON bodies and query parameters, each refused with the field's name."""

import json
from typing import Any, NoReturn, cast

from starlette.requests import Request

from dagster_peaka.sandbox.behaviour import Mode
from dagster_peaka.sandbox.caches import parse_duration
from dagster_peaka.sandbox.errors import ApiError, bad_request
from dagster_peaka.sandbox.wire import SCHEDULE_FIELDS, Json

LARGEST_BODY = 16 * 2**20
"""Bytes that a request's body may have."""
_INT32 = 2**31 - 1


async def json_of(request: Request) -> Any:
    """A request's body. Raises `ApiError`: 413 for too long a one, 415 for another type, 400 for what is no JSON or no
    Unicode.
    """
    body = await request.body()
    if len(body) > LARGEST_BODY:
        raise ApiError(413, f"The body has more than {LARGEST_BODY} bytes.", "PAYLOAD_TOO_LARGE")
    kind, _, parameters = request.headers.get("content-type", "").partition(";")
    charset = parameters.strip().lower().removeprefix("charset=").strip('"')
    if kind.strip().lower() != "application/json" or charset not in ("", "utf-8"):
        raise ApiError(415, "The body must be application/json in UTF-8.", "UNSUPPORTED_MEDIA_TYPE")
    try:
        parsed = json.loads(body.decode("utf-8"), parse_constant=_no_constant)
        json.dumps(parsed, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        raise bad_request("The body is nested too deeply.") from None
    except UnicodeError:
        raise bad_request("The body holds what is no Unicode text.") from None
    except ValueError as error:
        raise bad_request(f"The body is no JSON: {error}.") from None
    return parsed


async def object_of(request: Request) -> Json:
    return as_object(await json_of(request))


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON's")


def as_object(value: Any, what: str = "The body") -> Json:
    if not isinstance(value, dict):
        raise bad_request(f"{what} must be a JSON object.")
    return cast("Json", value)


def text(body: Json, field: str) -> str:
    value = body.get(field)
    if not isinstance(value, str) or not value:
        raise bad_request(f"{field} must be a string that is not empty.")
    return value


def texts(body: Json, field: str) -> list[str]:
    """An array of strings, empty where it is absent. Raises `ApiError`."""
    values: Any = body.get(field) or []
    if not isinstance(values, list) or not all(isinstance(value, str) for value in cast("list[Any]", values)):
        raise bad_request(f"{field} must be an array of strings.")
    return cast("list[str]", values)


def whole_number(value: Any, field: str, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= _INT32:
        raise bad_request(f"{field} must be a whole number from {least} to {_INT32}.")
    return value


def number_parameter(value: str, field: str, least: int) -> int:
    digits = value.isascii() and value.removeprefix("-").isdigit() and len(value) <= 11
    return whole_number(int(value) if digits else None, field, least)


def flag_parameter(value: str, field: str) -> bool:
    if value.lower() not in ("true", "false"):
        raise bad_request(f"{field} must be true or false.")
    return value.lower() == "true"


def schedules(body: Json, lenient: bool = False) -> tuple[dict[Mode, str | None], set[Mode]]:
    """The schedules that a body names, an expression each, None for `NONE`; and the modes of those that are malformed.

    Raises `ApiError` for a malformed one unless `lenient`.
    """
    found: dict[Mode, str | None] = {}
    malformed: set[Mode] = set()
    for mode, field in SCHEDULE_FIELDS.items():
        try:
            if body.get(field) is not None:
                found[mode] = _schedule(body, field)
        except ApiError:
            if not lenient:
                raise
            malformed.add(mode)
    return found, malformed


def _schedule(body: Json, field: str) -> str | None:
    schedule = as_object(body[field], field)
    kind = text(schedule, "type") if "type" in schedule else None
    if kind not in ("BASIC", "NONE"):
        raise bad_request(f"{field}.type must be BASIC or NONE.")
    if kind == "NONE":
        return None
    expression = schedule.get("expression")
    if not isinstance(expression, str):
        raise bad_request(f"{field}.expression must be a string, an ISO-8601 duration such as PT6H.")
    try:
        parse_duration(expression)
    except ValueError as error:
        raise bad_request(f"{field}.expression: {error}.") from None
    return expression
