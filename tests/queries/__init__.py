"""Materialized queries as assets."""
