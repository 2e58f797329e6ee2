"""Peaka caches as Dagster assets."""
