"""Peaka's REST API in Python, usable without Dagster: what can be asked, how it travels, what the answers mean."""
