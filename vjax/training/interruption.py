"""Turning SIGTERM and Ctrl-C into a request that the training loop answers between two steps."""

import signal
import threading
import time
from types import FrameType

# A service manager sends SIGTERM to a launcher and to its training, and the launcher hands on its own.
ECHO_SECONDS = 3.0


class Interruption:
    """While entered, the first SIGTERM or SIGINT is noted in `signal`; a second one acts at once.

    But a second SIGTERM within `ECHO_SECONDS` of the first is taken for the same one. In another thread
    than the main one nothing is noted.

    Attributes:
        signal: the signal that came, or None.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._previous = {}

    def __enter__(self) -> 'Interruption':
        if threading.current_thread() is not threading.main_thread():
            return self  # Signals come to the main thread alone, and are its business.
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        self.__exit__()
        if number == signal.SIGTERM:
            noted, before = time.monotonic(), self._previous[number]

            def again(number, _):
                if time.monotonic() - noted > ECHO_SECONDS:
                    signal.signal(number, before)
                    signal.raise_signal(number)

            signal.signal(number, again)
