"""What importing the package adds to importing Dagster, in fresh processes, as seconds and as a ratio.

python -m benchmarks.loading
"""

import statistics
import subprocess
import sys

ROUNDS = 9


def seconds(statement: str, before: str = "pass") -> float:
    """The median time of ``statement`` after ``before``, each round in a fresh interpreter."""
    program = (
        f"{before}\nimport time\nbegan = time.perf_counter()\n{statement}\nprint(time.perf_counter() - began)"
    )
    times = [
        float(
            subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
        )
        for _ in range(ROUNDS)
    ]
    return statistics.median(times)


def main() -> None:
    """Print the table."""
    dagster = seconds("import dagster")
    rows = [
        ("import dagster", dagster),
        ("import httpx, after dagster", seconds("import httpx", "import dagster")),
        ("import dagster_peaka, after dagster", seconds("import dagster_peaka", "import dagster")),
    ]
    print("| what | median of 9 | over `import dagster` |")
    print("|---|---|---|")
    for name, taken in rows:
        print(f"| `{name}` | {taken * 1000:.0f} ms | {taken / dagster:.2f} |")


if __name__ == "__main__":
    main()
