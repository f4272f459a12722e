"""Signals: raised at once, held back while something is under way, left alone where they were ignored."""

import contextlib
import signal
import threading

import pytest

from data.interrupts import Interrupts


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


@pytest.fixture(autouse=True)
def interruptible():
    """A job in the background starts with SIGINT ignored."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


def test_signals_become_exceptions_and_the_handlers_come_back():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(KeyboardInterrupt), Interrupts():
        interrupt()
    with pytest.raises(SystemExit) as stop, Interrupts():
        signal.raise_signal(signal.SIGTERM)
    assert stop.value.code == 143
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize(("times", "expected"), [(0, ["held", "after"]), (1, ["held"]), (2, [])])
def test_the_first_is_held_back_to_the_end_and_the_second_is_not(times: int, expected: list[str]):
    done = []

    def work():
        with Interrupts() as interrupts:
            with interrupts.held():
                for _ in range(times):
                    interrupt()
                done.append("held")
            done.append("after")

    with pytest.raises(KeyboardInterrupt) if times else contextlib.nullcontext():
        work()
    assert done == expected


def test_ignored_signals_stay_ignored_and_other_threads_change_nothing():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Interrupts():
        interrupt()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    signal.signal(signal.SIGINT, signal.default_int_handler)
    handlers = []

    def enter():
        with Interrupts():
            handlers.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert handlers == [signal.default_int_handler]
