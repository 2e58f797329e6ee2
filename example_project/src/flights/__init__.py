"""The example of dagster-peaka: flights, from an operational database through Peaka caches to a report."""
