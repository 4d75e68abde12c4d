"""How hypothesis draws the stories of `make test`: the same each time, and as long as they take."""

from hypothesis import HealthCheck, settings

REPEATABLE = settings(
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
