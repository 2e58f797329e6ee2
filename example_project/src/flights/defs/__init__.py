"""What this project defines: landings, caches, the report, the resource and the schedule."""
