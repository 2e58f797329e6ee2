"""Dagster as a user runs it, before a sandbox: what its daemon does by itself, and what its UI shows in a browser."""
