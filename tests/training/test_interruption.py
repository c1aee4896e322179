"""Signals, which only the main thread has."""

import signal
import threading

from vjax.training.interruption import Interruption


def test_a_signal_is_noted_and_the_handlers_come_back():
    before = signal.getsignal(signal.SIGTERM)
    with Interruption() as interruption:
        signal.raise_signal(signal.SIGTERM)
        assert interruption.signal is signal.SIGTERM
        assert signal.getsignal(signal.SIGTERM) is before
    assert signal.getsignal(signal.SIGTERM) is before


def test_in_another_thread_nothing_is_noted():
    entered = []

    def run():
        with Interruption() as interruption:
            entered.append(interruption)

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert entered[0].signal is None
    assert signal.getsignal(signal.SIGTERM) is before
