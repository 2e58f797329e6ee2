"""`python -m dagster_peaka.sandbox`: see `cli`."""

from dagster_peaka.sandbox.cli import main

if __name__ == "__main__":
    main()
