"""What a Dagster step does, from its selected assets to what it yields."""
