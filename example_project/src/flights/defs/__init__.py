"""What this project defines: landings, caches, the query, the report, the resource and the schedule."""
