"""Benchmarks that anyone can run: `make bench`, or one of the modules by itself."""
