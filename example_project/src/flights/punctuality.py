"""Punctuality by carrier: the question in SQL, and the answer as a table and as a chart."""

import base64
import io
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from flights.peaka_names import cache_key

ON_TIME_MINUTES = 15  # a flight is on time when it arrives less than this late, as the US government counts
STRONG_WIND = 15  # miles an hour, at the airport and in the hour of departure

TABLES = ("flights", "airlines", "weather")  # that the question is about
COLUMNS = ("carrier", "airline", "flights", "on_time", "cancelled", "delay", "delay_in_wind")  # of its answer

_STATEMENT = """
SELECT
    f.carrier,
    a.name AS airline,
    count(*) AS flights,
    sum(CASE WHEN f.arr_delay < {on_time} THEN 1 ELSE 0 END) AS on_time,
    sum(CASE WHEN f.dep_time IS NULL THEN 1 ELSE 0 END) AS cancelled,
    avg(f.arr_delay) AS delay,
    avg(CASE WHEN w.wind_speed >= {strong_wind} THEN f.arr_delay END) AS delay_in_wind
FROM {flights} f
LEFT JOIN {airlines} a ON a.carrier = f.carrier
LEFT JOIN {weather} w ON w.origin = f.origin AND w.time_hour = f.time_hour
GROUP BY f.carrier, a.name
"""


@dataclass(frozen=True)
class Carrier:
    """A carrier's flights: counts, and the mean arrival delay in minutes, of all and of those in strong wind."""

    name: str
    flights: int
    on_time: int
    cancelled: int
    delay: float | None
    delay_in_wind: float | None

    @property
    def share_on_time(self) -> float:
        """The share of all its flights that arrived on time; a cancelled flight did not."""
        return self.on_time / self.flights


def statement() -> str:
    """The question, in Trino's SQL, over three cached tables."""
    names = {table: ".".join(f'"{part}"' for part in cache_key(table)) for table in TABLES}
    return _STATEMENT.format(on_time=ON_TIME_MINUTES, strong_wind=STRONG_WIND, **names).strip()


def rows_from_answer(rows: Iterable[Mapping[str, Any]]) -> list[Carrier]:
    """The answer's rows as carriers, the most punctual first. Numbers may arrive as numbers or as text."""
    carriers = [
        Carrier(
            name=row["airline"] or row["carrier"],
            flights=int(row["flights"]),
            on_time=int(row["on_time"]),
            cancelled=int(row["cancelled"]),
            delay=_optional_float(row["delay"]),
            delay_in_wind=_optional_float(row["delay_in_wind"]),
        )
        for row in rows
    ]
    return sorted(carriers, key=lambda carrier: (-carrier.share_on_time, carrier.name))


def markdown_table(carriers: list[Carrier]) -> str:
    """A Markdown table whose columns also line up as plain text, and what its columns mean."""
    header = ("Airline", "Flights", "On time", "Mean delay (min)", "In wind (min)", "Cancelled")
    cells = [
        (
            carrier.name,
            f"{carrier.flights:,}",
            f"{carrier.share_on_time:.0%}",
            _one_decimal(carrier.delay),
            _one_decimal(carrier.delay_in_wind),
            f"{carrier.cancelled:,}",
        )
        for carrier in carriers
    ]
    widths = [max(len(row[column]) for row in (header, *cells)) for column in range(len(header))]
    lines = [
        _line(header, widths),
        "|" + "|".join(_rule(column, width) for column, width in enumerate(widths)) + "|",
        *(_line(row, widths) for row in cells),
    ]
    legend = (
        f"On time: arrived less than {ON_TIME_MINUTES} minutes late, of all flights. "
        f"In wind: the mean delay of flights that left in wind of {STRONG_WIND} mph or more."
    )
    return "\n".join([*lines, "", legend])


def chart(carriers: list[Carrier]) -> str:
    """A bar chart of the shares on time, as a `data:` address of a PNG image."""
    # On a new machine matplotlib warns that it builds its font cache, where that takes longer than five seconds.
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    # Imported here: matplotlib takes a second, which loading the definitions need not wait for.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    upwards = list(reversed(carriers))
    figure = Figure(figsize=(8, 0.6 + 0.35 * len(carriers)), layout="constrained")
    axes = figure.subplots()
    shares = [100 * carrier.share_on_time for carrier in upwards]
    bars = axes.barh([carrier.name for carrier in upwards], shares, color="#4c78a8")
    axes.bar_label(bars, labels=[f"{share:.0f} %" for share in shares], padding=3)
    axes.set_xlim(0, 110)
    axes.set_xticks([])
    axes.set_title(f"Flights that arrived less than {ON_TIME_MINUTES} minutes late")
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    image = io.BytesIO()
    FigureCanvasAgg(figure).print_png(image)
    return "data:image/png;base64," + base64.b64encode(image.getvalue()).decode()


def _line(cells: tuple[str, ...], widths: list[int]) -> str:
    aligned = [
        cell.ljust(width) if column == 0 else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return "| " + " | ".join(aligned) + " |"


def _rule(column: int, width: int) -> str:
    return "-" * (width + 2) if column == 0 else "-" * (width + 1) + ":"


def _one_decimal(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _optional_float(value: Any) -> float | None:
    return None if value is None else float(value)
