"""What a split is made of: settled before the first video is read, and put together after the last."""

import collections
import dataclasses
import difflib
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from vjax.data import index, records, video
from vjax.data.annotations.items import Annotations
from vjax.data.preparation import reports, shards
from vjax.data.preparation.storage import Folder
from vjax.errors import UserError

log = logging.getLogger(__name__)

VIDEOS_PER_SHARD = 64
MAX_SHARDS = 1024
REJECTED = 'rejected.csv'


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a split is made from; an interrupted run goes on only with an equal one.

    The limits are here and not in the data set's settings: they decide what is rejected, which may well
    differ from split to split, and nothing about what is stored.
    """

    settings: dict[str, Any]
    limits: dict[str, int]  # The fields of `video.Limits`.
    classes: list[str] | dict[str, list[str]]  # As `records.plain_classes` writes them.
    multi_label: bool
    annotations_sha256: str
    num_shards: int


def num_shards(num_videos: int) -> int:
    """The default: one for each 64 videos, but at least 4 where there are as many, and at most 1,024."""
    return min(max(min(4, num_videos), -(-num_videos // VIDEOS_PER_SHARD)), MAX_SHARDS)


def digest(annotations: Annotations) -> str:
    """SHA-256 of what is annotated: the heads, and every item in its order."""
    content = [annotations.heads, *(dataclasses.astuple(item) for item in annotations.items)]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def settle_classes(
    out: Folder,
    split: str,
    settings: dict[str, Any],
    wanted: Mapping[str, Sequence[str]] | None,
    annotations: Annotations,
    name: str,
) -> Mapping[str, Sequence[str]]:
    """Each head's class list, which its labels must be in; all must be those of `out`.

    Args:
        out: the data set's folder, which may have other splits, or the beginning of this one.
        split: name of the split.
        settings: must be those of `out`.
        wanted: the lists that the user asked for; None for those of `out`, or else of the annotations,
            or else the sorted labels.
        annotations: of the split.
        name: what to call them in sentences.

    Raises:
        UserError: something differs from what `out` is made with, or a label is in no list.
    """
    found = {
        head: {label for item in annotations.items for label in item.labels[i]}
        for i, head in enumerate(annotations.heads)
    }
    known = wanted
    if wanted is None and annotations.classes is not None:
        known = {head: list(names) for head, names in annotations.classes.items()}
    present = {'': read_description(out)}
    begun = sorted(name for name in out.names() if name.startswith('.partial-'))
    present |= {name: read_plan(out / name) for name in begun}
    for name_of, made in present.items():
        if made is None:
            continue
        own = name_of == partial_name(split)
        another = 'give another --out'
        another += f', or delete {(out / name_of).path} to begin the split again.' if own else '.'
        for key, value in settings.items():
            if made.settings.get(key) != value:
                raise UserError(
                    f'--{key}={value}, but {out.path} is being made with {made.settings.get(key)}; a '
                    f'data set has one setting: {another}'
                )
        if made.multi_label != annotations.multi_label:
            kinds = {True: 'any number of labels', False: 'one label for each head'}
            raise UserError(
                f'{name} gives a video {kinds[annotations.multi_label]}, but {out.path} is made with '
                f'{kinds[made.multi_label]}; {another}'
            )
        classes = made.classes
        if isinstance(made, Plan):
            classes = records.classes_by_head(classes)
        if list(classes) != list(found):
            raise UserError(
                f'{name} has the columns path,{",".join(found)}, but {out.path} is made with '
                f'path,{",".join(classes)}; give the same in this order, or {another}'
            )
        if known is not None and any(list(classes[head]) != list(known[head]) for head in found):
            whose = '--classes' if wanted is not None else f'the class list of {name}'
            raise UserError(
                f'{whose} differs from the class list that {out.path} is made with; {another}'
            )
        if not own:
            known = classes
    if known is None:
        if not all(found.values()):
            raise UserError(
                f'{name} has no classes: no video has a label; name them by --classes=FILE.'
            )
        return {head: sorted(names) for head, names in found.items()}
    for head, names in found.items():
        unknown = sorted(names - set(known[head]))
        if not unknown:
            continue
        shown = []
        for label in unknown[:5]:
            near = difflib.get_close_matches(label, known[head], n=1)
            shown.append(f'{label!r}' + (f' (did you mean {near[0]!r}?)' if near else ''))
        more = f' and {len(unknown) - 5} more' if len(unknown) > 5 else ''
        column = f' in the column {head!r}' if len(found) > 1 else ''
        whose = '--classes' if wanted is not None else f'the data set {out.path}'
        raise UserError(
            f'{name} has labels{column} that {whose} does not know: {", ".join(shown)}{more}.'
        )
    return known


def partial_name(split: str) -> str:
    """Name of the folder, in that of the data set, of what is known of an unfinished split."""
    return f'.partial-{split}'


def read_description(out: Folder) -> records.Dataset | None:
    """`dataset.json` of the folder `out`; None if there is none."""
    (text,) = out.read([records.DESCRIPTION])
    return None if text is None else records.parse_description(text, out.path)


def read_plan(partial: Folder) -> Plan | None:
    """The plan of a split that was begun in the folder `partial`; None if there is none."""
    (text,) = partial.read(['plan.json'])
    return None if text is None else Plan(**json.loads(text))


def begin(partial: Folder, plan: Plan) -> bool:
    """Notes what the split is made from, or checks that it was begun with the same.

    Returns:
        Whether it begins only now.
    """
    begun = read_plan(partial)
    if begun is None:
        partial.make()
        text = json.dumps(dataclasses.asdict(plan), ensure_ascii=False)
        partial.write('plan.json', text)
        return True
    if begun != plan:
        what = 'other annotations'
        if begun.annotations_sha256 == plan.annotations_sha256:
            what = 'other classes' if begun.classes != plan.classes else 'another --num_shards'
            if begun.limits != plan.limits:
                what = 'another --max_frames or --max_pixels'
        raise UserError(
            f'another run began this split with {what}; give the same, or delete {partial.path} to '
            f'begin again.'
        )
    return False


def tasks(
    out: Folder,
    partial: Folder,
    split: str,
    plan: Plan,
    annotations: Annotations,
    videos: Folder,
) -> list[shards.Task]:
    """All shards of a split."""
    classes = records.classes_by_head(plan.classes)
    ids = [{name: i for i, name in enumerate(names)} for names in classes.values()]
    items = annotations.items

    def class_ids(item):
        pairs = zip(ids, item.labels, strict=True)
        return tuple(of_head[label] for of_head, labels in pairs for label in labels)

    return [
        shards.Task(
            shard=shard,
            out=out.path,
            target=file,
            partial=partial.path,
            videos=videos.path,
            items=tuple(
                (i, items[i], class_ids(items[i]))
                for i in records.shard_range(shard, plan.num_shards, len(items))
            ),
            settings=plan.settings,
            limits=video.Limits(**plan.limits),
        )
        for shard, file in enumerate(records.shard_names(split, plan.num_shards))
    ]


def finish(
    out: Folder,
    partial: Folder,
    split: str,
    plan: Plan,
    journals: Sequence[shards.Journal],
) -> records.Dataset:
    """Writes the index, names the rejected files, and then the split; only now it exists.

    Raises:
        UserError: every video was rejected; nothing is left of the split then.
    """
    rejected = [entry for journal in journals for entry in journal.rejected]
    entries = [entry for journal in journals for entry in journal.entries]
    names = records.shard_names(split, plan.num_shards)
    rows = [[name, reason, split] for name, reason in rejected]
    reports.replace_rows(out, REJECTED, ['file', 'reason', 'split'], split, rows)
    if not entries:
        out.remove(names)
        partial.remove_all()
        name, reason = rejected[0]
        raise UserError(
            f'all {len(rejected)} videos of split {split!r} were rejected ({name}: {reason}); see '
            f'{(out / REJECTED).path}.'
        )
    encoded = index.encode(index.build(journal.entries for journal in journals))
    for name, content in zip(index.files(split), encoded, strict=True):
        out.write(name, content)
    classes = records.classes_by_head(plan.classes)
    made = records.Split(
        num_videos=len(entries),
        num_rejected=len(rejected),
        num_frames=sum(entry.num_frames for entry in entries),
        shards=tuple(names),
        shard_bytes=tuple(journal.bytes for journal in journals),
        index_bytes=tuple(map(len, encoded)),
        videos_per_class=_videos_per_class(entries, classes, plan.multi_label),
        fingerprint=records.fingerprint(
            classes, (digest for journal in journals for digest in journal.digests)
        ),
        annotations_sha256=plan.annotations_sha256,
    )
    dataset = read_description(out)
    splits = {} if dataset is None else dataset.splits
    for other, known in splits.items():
        if known.fingerprint == made.fingerprint:
            log.warning('%s has the same videos as %s, with the same labels', split, other)
    splits |= {split: made}
    dataset = records.Dataset(out.path, classes, plan.settings, splits, plan.multi_label)
    out.write(records.DESCRIPTION, records.format_description(dataset))
    partial.remove_all()
    return dataset


def _videos_per_class(
    entries: Sequence[index.Entry], classes: Mapping[str, Sequence[str]], multi_label: bool
) -> tuple[int, ...]:
    if multi_label:
        columns = [[label for entry in entries for label in set(entry.label)]]
    else:
        columns = zip(*(entry.label for entry in entries), strict=True)
    counts = [collections.Counter(column) for column in columns]
    return tuple(
        count[i]
        for count, names in zip(counts, classes.values(), strict=True)
        for i in range(len(names))
    )
