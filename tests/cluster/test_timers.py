"""Actions come in order of their time, equal ones in order of their making, and none before it is due."""

from mill.cluster.timers import Timers


def test_what_is_due_comes_in_order_and_the_rest_waits() -> None:
    timers, done = Timers(), list[str]()
    for when, name in ((3.0, "c"), (1.0, "a"), (2.0, "b"), (1.0, "a again")):
        timers.at(when, done.append, name)
    assert timers.next_at == 1.0
    timers.run(2.0)
    assert done == ["a", "a again", "b"]
    assert (timers.next_at, len(timers)) == (3.0, 1)


def test_what_an_action_puts_off_is_done_in_the_same_run_if_it_is_due() -> None:
    timers, done = Timers(), list[float]()

    def again(when: float) -> None:
        done.append(when)
        timers.at(when + 1.0, again, when + 1.0)

    timers.at(1.0, again, 1.0)
    timers.run(3.5)
    assert done == [1.0, 2.0, 3.0]
    assert timers.next_at == 4.0


def test_without_any_nothing_is_ever_due() -> None:
    timers = Timers()
    timers.run(1e9)
    assert timers.next_at == float("inf")
