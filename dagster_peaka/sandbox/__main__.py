"""The command `python -m dagster_peaka.sandbox`: its options, what it prints, and how it ends."""

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from dagster_peaka.sandbox.behaviour import CHOICES, DEFAULT_PROFILE, PROFILES, Behaviour
from dagster_peaka.sandbox.sources import SandboxError

if TYPE_CHECKING:
    from dagster_peaka.sandbox.requests import RequestRecord

KEY_VARIABLE = "PEAKA_SANDBOX_API_KEY"
_DEFAULT_KEY = "sandbox-key"


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Serve until SIGINT or SIGTERM, then exit with 0; with 2 and one sentence where it cannot start."""
    options = _parser().parse_args(arguments)
    for number in (signal.SIGINT, signal.SIGTERM):  # also where a shell's background job ignores them
        signal.signal(number, _leave)
    try:
        _serve(options)
    except SandboxError as error:
        _fail(f"--{error}")  # the sentence begins with the name of what was given
    except (ImportError, ValueError) as error:
        _fail(str(error))
    sys.exit(0)


def _serve(options: argparse.Namespace) -> None:
    from dagster_peaka.sandbox import PeakaSandbox

    queries = _pairs("query", "NAME=SQL", options.query)
    given = options.api_key or os.environ.get(KEY_VARIABLE)
    with _written_to(options.requests) as on_request:
        sandbox = PeakaSandbox(
            sources=_sources(options.source),
            caches=options.cache,
            store=options.store,
            project_id=options.project_id,
            api_key=given or _DEFAULT_KEY,
            host=options.host,
            port=options.port,
            profile=options.profile,
            behaviour=Behaviour(**_readings(options)),
            fail=_pairs("fail", "CATALOG.SCHEMA.TABLE=REASON", options.fail),
            on_request=on_request,
        )
        with sandbox:
            for name, sql in queries.items():
                with suppress(ValueError):  # the store has it
                    sandbox.queries.create(name, sql)
            print(
                _greeting(sandbox.base_url, sandbox.project_id, None if given else _DEFAULT_KEY), flush=True
            )
            threading.Event().wait()


def _greeting(base_url: str, project_id: str, key: str | None) -> str:
    lines = [
        "This is not Peaka. It is a sandbox that plays Peaka's API for caches, on this machine only.",
        "",
        f"  export PEAKA_BASE_URL={base_url}",
        f"  export PEAKA_PROJECT_ID={project_id}",
    ]
    lines.append(
        f"  export PEAKA_API_KEY={key}" if key else "  PEAKA_API_KEY is the key that it was started with."
    )
    return "\n".join([*lines, "", "Ctrl-C ends it."])


@contextmanager
def _written_to(path: Path | None) -> "Generator[Callable[[RequestRecord], None] | None]":
    """Appends every request to a file, as lines of JSON."""
    if path is None:
        yield None
        return
    try:
        file = path.open("a", buffering=1, encoding="utf-8")
    except OSError as error:
        raise SandboxError(f"requests {path}: the file cannot be written ({error.strerror}).") from None
    with file:
        yield lambda record: print(json.dumps(asdict(record)), file=file)


def _readings(options: argparse.Namespace) -> dict[str, Any]:
    """The readings that were asked for; the profile has the others."""
    given = {field.name: getattr(options, field.name) for field in fields(Behaviour)}
    return {name: value for name, value in given.items() if value is not None}


def _sources(given: Sequence[str]) -> dict[str, dict[str, str | Path]]:
    sources: dict[str, dict[str, str | Path]] = {}
    for text in given:
        name, separator, path = text.partition("=")
        catalog, _, schema = name.partition(".")
        if not separator or not path:
            raise SandboxError(f"source {text}: write it as CATALOG.SCHEMA=FILE, such as ops.public=ops.db.")
        sources.setdefault(catalog, {})[schema or "main"] = path
    return sources


def _pairs(option: str, form: str, given: Sequence[str]) -> dict[str, str]:
    pairs = [text.partition("=") for text in given]
    for name, separator, value in pairs:
        if not separator or not value:
            raise SandboxError(f"{option} {name}: write it as {form}.")
    return {name: value for name, _, value in pairs}


def _leave(_: int, __: object) -> NoReturn:
    for again in (signal.SIGINT, signal.SIGTERM):  # once is enough: nothing may disturb the end
        signal.signal(again, signal.SIG_IGN)
    sys.exit(0)


def _fail(sentence: str) -> NoReturn:
    print(f"dagster_peaka.sandbox: {sentence}", file=sys.stderr)
    sys.exit(2)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One sentence, like every other error."""
        _fail(f"{message}; --help shows all options.")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m dagster_peaka.sandbox",
        description="A local Peaka over HTTP, to develop and test against. It is not Peaka.",
        epilog=f"The key may also come from the environment variable {KEY_VARIABLE}.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    several = partial(add, action="append", default=[])
    add(
        "--source",
        action="append",
        required=True,
        metavar="CATALOG.SCHEMA=FILE",
        help="a SQLite file to serve as a schema of a catalog; may be repeated",
    )
    several(
        "--cache",
        metavar="CATALOG.SCHEMA.TABLE",
        help="a cache to create, unless the store has it; shell patterns such as 'ops.public.*'; may be repeated",
    )
    several(
        "--fail",
        metavar="CATALOG.SCHEMA.TABLE=REASON",
        help="let every execution of this table's cache end FAILED with the reason; may be repeated",
    )
    several(
        "--query",
        metavar="NAME=SQL",
        help="a materialized query to save, unless the store has it; may be repeated",
    )
    add(
        "--store",
        type=Path,
        metavar="FILE",
        help="keep caches, history and copies here; without it they end with it",
    )
    add("--port", type=int, default=8765, help="port to listen on, 0 for a free one (%(default)s)")
    add("--host", default="127.0.0.1", help="loopback address to listen on (%(default)s)")
    add("--project-id", default="sandbox", metavar="ID", help="the one project that there is (%(default)s)")
    add(
        "--api-key",
        metavar="KEY",
        help=f"the key to ask for ({_DEFAULT_KEY}); better given as {KEY_VARIABLE}",
    )
    add(
        "--requests", type=Path, metavar="FILE", help="append every request to this file, a line of JSON each"
    )
    add(
        "--profile",
        default=DEFAULT_PROFILE,
        metavar="|".join((*PROFILES, "FILE")),
        help="play Peaka as its document promises, as people saw the live service, or as a doctor's report says "
        "(%(default)s)",
    )
    _add_behaviour(parser)
    return parser


def _add_behaviour(parser: argparse.ArgumentParser) -> None:
    behaviour = parser.add_argument_group(
        "behaviour", "How it plays what Peaka's contract leaves open, whatever the profile says."
    )
    for field in fields(Behaviour):
        behaviour.add_argument(
            f"--{field.name.replace('_', '-')}",
            default=None,
            help=f"{field.metadata['help']} ({_by_profile(field.name)})".replace("%", "%%"),
            **_option(field.name, field.default),
        )


def _by_profile(name: str) -> str:
    """A reading's value, in each profile where they differ."""
    values = {profile: readings[name] for profile, readings in PROFILES.items()}
    if len(set(values.values())) == 1:
        return str(values["documented"])
    return ", ".join(f"{profile}: {value}" for profile, value in values.items())


def _option(name: str, default: Any) -> dict[str, Any]:
    if isinstance(default, bool):
        return {"action": argparse.BooleanOptionalAction}
    if name in CHOICES:
        return {"choices": CHOICES[name]}
    return {"type": type(default), "metavar": type(default).__name__.upper()}


if __name__ == "__main__":
    main()
