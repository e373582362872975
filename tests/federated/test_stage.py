"""A stage of a pipeline: in order, all that wait together, and nothing left behind."""

import threading

from sona.federated.stage import Stage


def held_up(take, **limits):
    """A stage that has begun with item 0, and takes it when it may go on."""
    begun, go = threading.Event(), threading.Event()

    def work(items):
        begun.set()
        go.wait(10)
        take(items)

    stage = Stage(work, "test", **limits)
    stage.put(0)
    assert begun.wait(10)
    return stage, go


def test_what_waits_is_worked_on_together_and_in_order():
    batches = []
    stage, go = held_up(batches.append, most=3)
    for item in range(1, 6):
        stage.put(item)
    go.set()
    stage.close()
    assert batches == [[0], [1, 2, 3], [4, 5]]


def test_who_puts_more_than_may_wait_waits():
    done = []
    stage, go = held_up(done.extend, most=1, waiting=2)  # nothing waits now
    sender = threading.Thread(target=lambda: [stage.put(item) for item in (1, 2, 3)])
    sender.start()
    sender.join(0.1)
    assert sender.is_alive()
    go.set()
    sender.join(10)
    stage.close()
    assert done == [0, 1, 2, 3]


def test_a_stage_that_was_given_nothing_has_no_thread():
    before = threading.active_count()
    stage = Stage(print, "test")
    stage.close()
    assert threading.active_count() == before


def test_a_stage_survives_what_its_work_raises(caplog):
    done = []

    def work(items):
        if items == [1]:
            raise RuntimeError("cannot")
        done.extend(items)

    stage = Stage(work, "fragile", most=1)
    for item in range(3):
        stage.put(item)
    stage.close()
    assert done == [0, 2]
    assert "fragile failed" in caplog.text
