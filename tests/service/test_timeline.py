"""Time in bounded memory: nothing is lost when neighbours merge."""

from hypothesis import given
from hypothesis import strategies as st

from sona.service.timeline import Timeline

DAY_MS = 86_400_000


def add(timeline, at, quality=0.5, warm=False, route="a"):
    timeline.add(
        at,
        new_agent=True,
        accepted=2,
        rejected=1,
        quality=quality,
        warm=warm,
        routes={route: (3, 3 * quality)},
    )


@given(st.lists(st.tuples(st.integers(0, 40 * DAY_MS), st.booleans()), max_size=60))
def test_what_was_added_is_there_whatever_the_times(entries):
    timeline = Timeline()
    for at, warm in entries:
        add(timeline, at, warm=warm)
    buckets = timeline.view()
    assert len(buckets) <= 96
    assert sum(bucket.exports for bucket in buckets) == len(entries)
    assert sum(bucket.accepted for bucket in buckets) == 2 * len(entries)
    assert sum(bucket.warm.count for bucket in buckets) == sum(warm for _, warm in entries)
    for number, bucket in enumerate(buckets):
        assert bucket.at == buckets[0].at + number * timeline.width_ms


def test_a_day_of_traffic_fits():
    timeline = Timeline()
    for second in range(0, 86_400, 4):
        late = second > 43_200
        add(timeline, 1_000 * second, quality=0.9 if late else 0.4, warm=late)
    assert len(timeline.view()) <= 96
    assert timeline.cold.mean() < timeline.warm.mean()
    assert timeline.trend("a") > 0.2
    assert len([value for value in timeline.recent("a") if value is not None]) > 40
    assert sum(bucket.exports for bucket in timeline.view()) == 21_600


def test_a_flood_of_route_names_is_bounded():
    timeline = Timeline()
    for number in range(1_000):
        add(timeline, number, route=f"route-{number}")
    followed = [n for n in range(1_000) if any(timeline.recent(f"route-{n}"))]
    assert followed == list(range(64))
