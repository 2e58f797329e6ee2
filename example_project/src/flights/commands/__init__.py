"""What `make demo` and `make dev` run: a local Peaka where no account is named, and Dagster."""
