"""What several seeds gave, in a cell of a table."""

import statistics
from collections.abc import Iterable


def mean_and_range(shares: Iterable[float]) -> str:
    """'92.7 % (89.6 to 98.6)', of shares in [0, 1]."""
    values = [100 * share for share in shares]
    return f'{statistics.mean(values):.1f} % ({min(values):.1f} to {max(values):.1f})'
