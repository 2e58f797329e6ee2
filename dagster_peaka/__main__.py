"""``python -m dagster_peaka COMMAND``."""

import sys

COMMANDS = {"doctor": "tells whether syncs will work with an account of Peaka, why not, and what to set"}
"""The commands, each with what it does."""


def main() -> int:
    """Run the command that is named first; returns the exit code."""
    command, *arguments = sys.argv[1:] or [""]
    if command == "doctor":
        from dagster_peaka.doctor.command import main as doctor

        return doctor(arguments)
    listed = "\n".join(f"  {name}  {does}" for name, does in COMMANDS.items())
    usage = f"usage: python -m dagster_peaka COMMAND …; each takes --help.\n{listed}\n"
    asked = command in ("-h", "--help")
    (sys.stdout if asked else sys.stderr).write(usage)
    return 0 if asked else 2


if __name__ == "__main__":
    sys.exit(main())
