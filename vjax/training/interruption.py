"""Turning SIGTERM and Ctrl-C into a request that the training loop answers between two steps."""

import signal
import threading
from types import FrameType


class Interruption:
    """While entered, the first SIGTERM or SIGINT is noted in `signal`; a second one acts at once.

    In another thread than the main one nothing is noted.

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
        for each, handler in self._previous.items():
            signal.signal(each, handler)
