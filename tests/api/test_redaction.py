"""One redaction over all that Peaka says: in errors and in successful answers, and no word too many."""

import json
from typing import Any

import dagster as dg
import pytest

from dagster_peaka import (
    PeakaApiError,
    PeakaClient,
    PeakaResource,
    PeakaResponseError,
    build_peaka_cache_asset,
)
from dagster_peaka.sandbox import PeakaSandbox
from tests.raw_server import RawServer, reply

KEY = "pk-3f9c2b7e/+x=="
ESCAPED = "".join(f"\\u{ord(letter):04x}" for letter in KEY)
HTML_SAFE = KEY.replace("=", "\\u003d").replace("/", "\\/")


@pytest.mark.parametrize("charset", ["utf-8", "utf-8-sig", "utf-16-le", "utf-16", "utf-32"])
def test_the_key_is_hidden_in_every_encoding_that_json_has(charset: str) -> None:
    """An answer in another encoding is read like any other."""
    history = f'[{{"id": "e1", "error": "no {KEY}"}}]'.encode(charset)
    with RawServer(reply(body=history)) as server, PeakaClient(KEY, "p", server.base_url) as client:
        assert [execution.reason for execution in client.get_execution_history("c")] == ["no [the API key]"]


@pytest.mark.parametrize("written", [KEY, ESCAPED, HTML_SAFE], ids=["plain", "escaped", "HTML-safe"])
def test_no_field_of_a_successful_answer_holds_the_key(written: str) -> None:
    """Whatever Peaka reports with a 200, and however JSON writes it."""
    error = f'{{"message": "401 for Bearer {written}", "headers": ["{written}"]}}'
    history = f'[{{"id": "e1", "status": "FAILED", "error": {error}}}]'
    with RawServer(reply(body=history)) as server, PeakaClient(KEY, "p", server.base_url) as client:
        (execution,) = client.get_execution_history("c")

    assert execution.reason == "401 for Bearer [the API key]"
    assert "3f9c" not in repr(execution)


@pytest.mark.parametrize("written", [KEY, ESCAPED, HTML_SAFE], ids=["plain", "escaped", "HTML-safe"])
def test_the_beginning_of_an_answer_that_is_shown_holds_no_key(written: str) -> None:
    """An answer of another shape is shown without it, however JSON writes it."""
    with (
        RawServer(reply(body=f'{{"key": "{written}"}}')) as server,
        PeakaClient(KEY, "p", server.base_url) as client,
        pytest.raises(PeakaResponseError, match=r"\[the API key\]") as caught,
    ):
        client.list_catalogs()
    assert "3f9c" not in str(caught.value)


def test_rows_hold_no_key_and_are_what_they_were_otherwise() -> None:
    """Names and values of a query's answer, numbers and texts with escapes among them."""
    rows = [{"n": 1, "text": 'a "quoted" \u00fc', KEY: KEY, "price": 1.5}]
    body = json.dumps({"columns": ["n", "text", KEY, "price"], "data": rows})
    with RawServer(reply(body=body)) as server, PeakaClient(KEY, "p", server.base_url) as client:
        result = client.execute_query("SELECT 1")
    assert result.rows == [
        {"n": 1, "text": 'a "quoted" \u00fc', "[the API key]": "[the API key]", "price": 1.5}
    ]


@pytest.mark.parametrize("key", ["a", "e", "peaka", "cache", "table", "database", "sandbox"])
def test_a_key_that_is_an_ordinary_word_leaves_messages_readable(key: str) -> None:
    """Such a key is hidden where it stands as one, and nowhere else: neither our words nor Peaka's become riddles."""
    words = "the cache of a table in the database of peaka is in a sandbox"
    body = json.dumps({"message": f"{words}; Authorization: Bearer {key} is wrong"})
    with (
        RawServer(reply(400, body)) as server,
        PeakaClient(key, "p", server.base_url) as client,
        pytest.raises(PeakaApiError) as caught,
    ):
        client.get_cache("c")
    assert caught.value.reason == f"{words}; Authorization: Bearer [the API key] is wrong"
    assert "Peaka refused the request for cache c. Check its ids" in str(caught.value)


def test_a_failed_executions_error_reaches_no_event_with_the_key(
    sandbox: PeakaSandbox, caplog: pytest.LogCaptureFixture
) -> None:
    """Peaka answers 200 with an execution whose error quotes the request's headers."""
    said = {"message": "source refused", "request": {"Authorization": f"Bearer {sandbox.api_key}"}}
    sandbox.plan("ops.public.t", fail={**said, "message": f"source refused {sandbox.api_key}"})
    peaka = PeakaResource.model_validate(
        {
            "api_key": sandbox.api_key,
            "project_id": sandbox.project_id,
            "base_url": sandbox.base_url,
            "poll_interval": 0.05,
        }
    )
    asset: Any = build_peaka_cache_asset(table="ops.public.t", checks={"last_sync_succeeded": True})
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize([asset], resources={"peaka": peaka}, instance=instance, raise_on_error=False)
        events = [str(entry.to_json()) for entry in instance.all_logs(result.run_id)]

    assert not result.success
    assert any("source refused [the API key]" in event for event in events)
    assert not any(sandbox.api_key in event for event in events)
    assert sandbox.api_key not in caplog.text
