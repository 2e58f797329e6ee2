"""What Dagster is told of syncs: materializations, failures, checks, and what a step writes down before it triggers."""
