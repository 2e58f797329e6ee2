"""The two sensors: what Peaka has synced by itself, and which caches were updated upstream."""
