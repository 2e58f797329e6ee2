"""Which caches there are, which of them are meant, and what they are called."""
