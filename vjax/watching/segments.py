"""Scores of overlapping windows -> segments: from when to when a video shows what.

1. An instant's logits are the mean of those of the windows that cover it, as those of a video are the
   mean of its views'; instants that no window covers (windows may lie apart) take the nearest one's.
2. An instant's class is the likeliest, if its probability is at least `min_score`; else it has none. Where
   a video has any number of labels, each class is a question of its own: it is there, or not.
3. Instants of one class that follow one another are a run. A run of at least `min_seconds` begins a
   segment of its class; shorter ones are what lies between. What lies between two runs of one class
   belongs to them; of what lies between two of different classes each gets a half; what lies before the
   first or after the last is that one's.

It is done as the windows come: memory holds the windows that may still be overlapped, the logits of
nothing else, and the segments.
"""

import collections
import csv
import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from vjax.training import metrics
from vjax.training.losses import Classification

NONE = -1  # The state of instants without a class.
_ROUNDING = 1e-6  # Seconds.


class Segment(NamedTuple):
    """A part of a video that shows a class.

    Attributes:
        head: whose class it is; 'label' where there is one head only.
        label: the class.
        start, end: seconds since the video's first frame.
        score: the class's mean probability, over the instants from its first run to its last.
    """

    head: str
    label: str
    start: float
    end: float
    score: float


class Segmenter:
    """Makes segments of windows, which are given in the order of their starts and of their ends."""

    def __init__(
        self,
        classes: Mapping[str, Sequence[str]],
        classification: Classification,
        *,
        min_seconds: float | None = None,
        min_score: float | None = None,
    ) -> None:
        """Takes no windows yet.

        Args:
            classes: each head's class names.
            classification: what logits stand for.
            min_seconds: length of the shortest run that begins a segment; None is that of the first
                window.
            min_score: probability that a class must have; None is 0, or 0.5 where a video has any
                number of labels.
        """
        self._classification = classification
        self._min_seconds = min_seconds
        questions = classification.multi_label
        self._min_score = min_score if min_score is not None else 0.5 * questions
        self._tracks = {
            head: [_Track(head, [name]) for name in names] if questions else [_Track(head, names)]
            for head, names in classes.items()
        }
        self._active: collections.deque[tuple[float, np.ndarray]] = collections.deque()
        self._done = 0.0  # Instants before this one are in the tracks.

    def add(self, start: float, end: float, logits: Float[np.ndarray, 'classes']) -> None:
        """Takes a window's logits."""
        if self._min_seconds is None:
            self._min_seconds = end - start
        if self._active:
            last, its = self._active[-1]
            if start > last:
                start = (last + start) / 2
                self._active[-1] = start, its
            self._settle(start)
        else:
            self._done = start
        self._active.append((end, logits))

    def finish(self) -> list[Segment]:
        """The segments, by their starts, when no more windows come; call it once."""
        if self._active:
            self._settle(self._active[-1][0])
        found = []
        for tracks in self._tracks.values():
            for track in tracks:
                track.finish(self._done, self._min_score)
                found += track.segments
        return sorted(found, key=lambda segment: segment.start)

    def _settle(self, until: float) -> None:
        """Decides the instants before `until`, which no later window covers."""
        while self._done < until:
            while self._active[0][0] <= self._done:
                self._active.popleft()
            end = min(until, self._active[0][0])
            logits = np.mean([logits for _, logits in self._active], axis=0, dtype=np.float64)
            log_p = metrics.log_probabilities(self._classification, logits[None])
            for head, tracks in self._tracks.items():
                scores = np.exp(log_p[head][0])
                parts = scores[:, None] if self._classification.multi_label else [scores]
                for track, part in zip(tracks, parts, strict=True):
                    best = int(np.argmax(part))
                    state = best if part[best] >= self._min_score else NONE
                    track.add(self._done, end, state, part, self._min_seconds)
            self._done = end


@dataclasses.dataclass
class _Part:
    """Consecutive instants, and their classes' probabilities integrated over time."""

    state: int
    start: float
    end: float
    sums: Float[np.ndarray, 'classes']

    def extend(self, other: '_Part') -> None:
        self.end = other.end
        self.sums = self.sums + other.sums

    def score(self, state: int) -> float:
        return float(self.sums[state] / (self.end - self.start))


class _Track:
    """The segments of one question: which of these classes, if any.

    Attributes:
        segments: those that are over.
    """

    def __init__(self, head: str, names: Sequence[str]) -> None:
        self.segments: list[Segment] = []
        self._head, self._names = head, names
        self._start = 0.0  # Of the segment that is not over.
        self._sure: _Part | None = None  # From its first run to its last one.
        self._between: _Part | None = None  # Runs since then that were too short.
        self._run: _Part | None = None  # The latest run; None while it is one of the segment's.

    def add(
        self,
        start: float,
        end: float,
        state: int,
        scores: Float[np.ndarray, '_'],
        min_seconds: float,
    ) -> None:
        """Takes the instants of [start, end), which follow those before."""
        now = _Part(state, start, end, scores * (end - start))
        if self._run is not None and self._run.state != state:
            self._between = self._joined(self._between, self._run)
            self._run = None
        if self._sure is not None and self._sure.state == state:
            for part in (self._between, now):
                if part is not None:
                    self._sure.extend(part)
            self._between = None
            return
        self._run = self._joined(self._run, now)
        if self._run.end - self._run.start >= min_seconds - _ROUNDING:
            self._begin()

    def finish(self, end: float, min_score: float) -> None:
        """Ends the last segment, at `end`."""
        if self._sure is None and (self._between or self._run):
            # No run was long enough: all of it is one, of what it looks most like.
            whole = self._joined(self._between, self._run) if self._run else self._between
            state = int(np.argmax(whole.sums))
            whole.state = state if whole.score(state) >= min_score else NONE
            self._start, self._sure = whole.start, whole
        self._close(end)

    def _begin(self) -> None:
        """Makes the latest run the beginning of a segment."""
        if self._sure is None:
            start = self._between.start if self._between else self._run.start
        else:
            start = (self._sure.end + self._run.start) / 2
            self._close(start)
        self._start, self._sure = start, self._run
        self._between = self._run = None

    def _close(self, end: float) -> None:
        if self._sure is not None and self._sure.state != NONE:
            name, score = self._names[self._sure.state], self._sure.score(self._sure.state)
            self.segments.append(Segment(self._head, name, self._start, end, score))

    @staticmethod
    def _joined(before: _Part | None, after: _Part) -> _Part:
        if before is None:
            return after
        before.extend(after)
        return before


def as_dicts(segments: Sequence[Segment], several_heads: bool) -> list[dict[str, Any]]:
    """Segments as CSV and JSON have them: `head` only where there are several, times to 1 ms."""
    return [
        ({'head': segment.head} if several_heads else {})
        | {
            'label': segment.label,
            'start': round(segment.start, 3),
            'end': round(segment.end, 3),
            'score': round(segment.score, 4),
        }
        for segment in segments
    ]


def to_csv(segments: Sequence[Segment], several_heads: bool) -> str:
    """A line for each segment, under a header."""
    text = io.StringIO()
    names = (*(('head',) if several_heads else ()), 'label', 'start', 'end', 'score')
    writer = csv.DictWriter(text, names, lineterminator='\n')
    writer.writeheader()
    writer.writerows(as_dicts(segments, several_heads))
    return text.getvalue()


def to_json(segments: Sequence[Segment], several_heads: bool, about: Mapping[str, Any]) -> str:
    """An object with `about` the video and a list `segments`."""
    content = {**about, 'segments': as_dicts(segments, several_heads)}
    return json.dumps(content, indent=2, ensure_ascii=False) + '\n'
