"""What a page is made from, and what several of its parts ask of it."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from vjax.data import records, stores
from vjax.training import metrics
from vjax.training.losses import Classification


class Evidence(NamedTuple):
    """An evaluation that the page shows.

    Attributes:
        outputs: for every video of the split.
        result: the metrics, and how they were come by: what `vjax.evaluate` writes.
        classification: what the logits stand for.
        store: the videos; None where the data set is not at hand.
    """

    outputs: metrics.Outputs
    result: Mapping[str, Any]
    classification: Classification
    store: stores.Store | None


class Contents(NamedTuple):
    """What a page is made from.

    Attributes:
        workdir: of the run.
        about: its config.json; see `runs.read_about`.
        entries: the lines of its metrics.jsonl.
        environment: its environment.json.
        costs: what `vjax.describe` says of the config.
        evidence: an evaluation, or None.
        missing: why there is no evaluation, or are no videos: one sentence, or nothing.
        made: when and by what the page was made.
    """

    workdir: str
    about: Mapping[str, Any]
    entries: Sequence[Mapping[str, Any]]
    environment: Mapping[str, Any]
    costs: Mapping[str, Any]
    evidence: Evidence | None
    missing: str
    made: str

    @property
    def classes(self) -> dict[str, tuple[str, ...]]:
        """Each head's class names."""
        return records.classes_by_head(self.about['classes'])

    @property
    def validation(self) -> str:
        """The name of the split that the run was validated on."""
        return self.about['config']['dataset']['validation']
