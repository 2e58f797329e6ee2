"""Materialized queries as assets: refreshed and followed by the same engine as caches are synced."""
