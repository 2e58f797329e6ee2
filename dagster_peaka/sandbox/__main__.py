"""The command `python -m dagster_peaka.sandbox`: its options, what it prints, and how it ends."""

import argparse
import ast
import inspect
import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import IO, Any, NoReturn

from dagster_peaka.sandbox.behaviour import CHOICES, DEFAULT_PROFILE, PROFILES, Behaviour
from dagster_peaka.sandbox.sources import SandboxError

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
    sources: dict[str, dict[str, str]] = {}
    for name, file in _pairs(
        "source", "CATALOG.SCHEMA=FILE, such as ops.public=ops.db", options.source
    ).items():
        catalog, _, schema = name.partition(".")
        sources.setdefault(catalog, {})[schema or "main"] = file
    given = options.api_key or os.environ.get(KEY_VARIABLE)
    readings = {one.name: getattr(options, one.name) for one in fields(Behaviour) if one.name in options}
    with _log(options.requests) as log:
        sandbox = PeakaSandbox(
            sources,
            caches=options.cache,
            store=options.store,
            project_id=options.project_id,
            api_key=given or _DEFAULT_KEY,
            host=options.host,
            port=options.port,
            profile=options.profile,
            behaviour=Behaviour(**readings),
            fail=_pairs("fail", "CATALOG.SCHEMA.TABLE=REASON", options.fail),
            on_request=None if log is None else lambda record: print(json.dumps(asdict(record)), file=log),
        )
        with sandbox:
            for name, sql in queries.items():
                with suppress(ValueError):  # the store has it
                    sandbox.queries.create(name, sql)
            key = "  PEAKA_API_KEY is the key that it was started with."
            print(
                "This is not Peaka. It is a sandbox that plays Peaka's API for caches, on this machine only.",
                "",
                f"  export PEAKA_BASE_URL={sandbox.base_url}",
                f"  export PEAKA_PROJECT_ID={sandbox.project_id}",
                key if given else f"  export PEAKA_API_KEY={_DEFAULT_KEY}",
                "",
                "PeakaResource needs base_url=dg.EnvVar('PEAKA_BASE_URL') to come here.",
                "Ctrl-C ends it.",
                sep="\n",
                flush=True,
            )
            threading.Event().wait()


def _log(path: Path | None) -> AbstractContextManager[IO[str] | None]:
    try:
        return path.open("a", buffering=1, encoding="utf-8") if path is not None else nullcontext()
    except OSError as error:
        raise SandboxError(f"requests {path}: the file cannot be written ({error.strerror}).") from None


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
        _fail(f"{message}; --help shows all options.")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m dagster_peaka.sandbox",
        description="A local Peaka over HTTP, to develop and test against. It is not Peaka.",
        epilog=f"The key may also come from the environment variable {KEY_VARIABLE}.",
        allow_abbrev=False,
    )

    def add(option: str, metavar: str | None, says: str, **how: Any) -> None:
        parser.add_argument(option, metavar=metavar, help=says, **how)

    several = partial(add, action="append", default=[])
    table, profiles = "CATALOG.SCHEMA.TABLE", "|".join((*PROFILES, "FILE"))
    source = "a SQLite file to serve as a schema of a catalog; may be repeated"
    add("--source", "CATALOG.SCHEMA=FILE", source, action="append", required=True)
    several(
        "--cache",
        table,
        "a cache to create, unless the store has it; shell patterns such as 'ops.public.*'; may be repeated",
    )
    several(
        "--fail",
        f"{table}=REASON",
        "let every execution of this table's cache end FAILED with the reason; may be repeated",
    )
    several("--query", "NAME=SQL", "a materialized query to save, unless the store has it; may be repeated")
    add("--store", "FILE", "keep caches, history and copies here; without it they end with it", type=Path)
    add("--port", None, "port to listen on, 0 for a free one (%(default)s)", type=int, default=8765)
    add("--host", None, "loopback address to listen on (%(default)s)", default="127.0.0.1")
    add("--project-id", "ID", "the one project that there is (%(default)s)", default="sandbox")
    add("--api-key", "KEY", f"the key to ask for ({_DEFAULT_KEY}); better given as {KEY_VARIABLE}")
    add("--requests", "FILE", "append every request to this file, a line of JSON each", type=Path)
    add(
        "--profile",
        profiles,
        "play Peaka as its document promises, as people saw the live service, or as a doctor's report says "
        "(%(default)s)",
        default=DEFAULT_PROFILE,
    )
    _add_behaviour(parser)
    return parser


def _add_behaviour(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "behaviour", "How it plays what Peaka's contract leaves open, whatever the profile says."
    )
    for name, says in _meanings().items():
        default = PROFILES["documented"][name]
        how: dict[str, Any] = {"type": type(default), "metavar": type(default).__name__.upper()}
        if isinstance(default, bool):
            how = {"action": argparse.BooleanOptionalAction}
        elif name in CHOICES:
            how = {"choices": CHOICES[name]}
        values = {profile: readings[name] for profile, readings in PROFILES.items()}
        read = ", ".join(f"{profile}: {value}" for profile, value in values.items())
        if len(set(values.values())) == 1:
            read = str(default)
        option, help_ = f"--{name.replace('_', '-')}", f"{says} ({read})".replace("%", "%%")
        group.add_argument(option, default=argparse.SUPPRESS, help=help_, **how)


def _meanings() -> dict[str, str]:
    """What each field of `Behaviour` means: the text below it."""
    (behaviour,) = ast.parse(inspect.getsource(Behaviour)).body
    assert isinstance(behaviour, ast.ClassDef)
    return {
        field.target.id: " ".join(text.value.value.split())
        for field, text in zip(behaviour.body, behaviour.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }


if __name__ == "__main__":
    main()
