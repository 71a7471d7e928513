"""Time a piece of work."""

import sys
import time
from collections.abc import Callable
from typing import Any

QUICK = "--quick" in sys.argv  # sizes that show whether a benchmark runs, and nothing else


def shortest(work: Callable[[], Any], repeats: int) -> float:
    """Return the shortest of several times in seconds, which other programs disturb least."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)
