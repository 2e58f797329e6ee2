"""How many examples the generated tests try: few, and far more at night."""

import os

EXAMPLES = int(os.environ.get("PEAKA_EXAMPLES", "6"))
"""For each request or statement. What is cheaper takes a multiple of it."""
