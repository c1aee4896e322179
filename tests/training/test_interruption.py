"""Signals, which only the main thread has."""

import signal
import threading

import pytest

from vjax.training import interruption as interruptions
from vjax.training.interruption import Interruption


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_noted_and_the_handlers_come_back(number):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with Interruption() as interruption:
        signal.raise_signal(number)
        assert interruption.signal is number
        assert signal.getsignal(signal.SIGINT) is before[1]
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_a_second_ctrl_c_acts_at_once():
    # A shell starts what runs in its background with SIGINT ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with Interruption():
            signal.raise_signal(signal.SIGINT)
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_second_sigterm_acts_unless_it_is_an_echo(monkeypatch):
    acted = []
    before = signal.signal(signal.SIGTERM, lambda number, _: acted.append(number))
    try:
        with Interruption() as interruption:
            for _ in range(3):
                signal.raise_signal(signal.SIGTERM)
            assert interruption.signal is signal.SIGTERM
            assert not acted
            monkeypatch.setattr(interruptions, 'ECHO_SECONDS', -1.0)
            signal.raise_signal(signal.SIGTERM)
            assert acted == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


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
