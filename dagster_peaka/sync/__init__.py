"""One sync of one cache, from its first poll to its result; the runner does many side by side."""
