"""The example's code location for tests that wait for each of its ticks and runs.

Its sensors tick every two seconds, and its runs have no process for each step, which would import Dagster anew.
"""

import dagster as dg

from flights import definitions
from flights.defs import sensors

sensors.INTERVAL = 2

defs = dg.Definitions.merge(definitions.defs(), dg.Definitions(executor=dg.in_process_executor))
