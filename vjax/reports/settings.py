"""The end of a page: what was changed of the recipe, and what the run was made with."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from vjax import config as configs
from vjax import recipes
from vjax.reports.contents import Contents

# What a config file leaves open, and what decides it then.
_LEFT_OPEN = {'model.num_classes': 'left to the data set', 'num_steps': 'left to num_epochs'}
_UNSET = object()


def settings(about: Mapping[str, Any]) -> dict[str, Any]:
    """What was changed of the recipe, and the whole config."""
    config, recipe = about['config'], about.get('recipe')
    if recipe:
        default, name = recipe['config'], recipe['name']
    else:
        base = recipes.base()
        base.model = recipes.model(config['model']['name'])
        default, name = configs.recipe('', base)['config'], ''
    default, current = dict(configs.leaves(default)), dict(configs.leaves(config))
    changes = []
    for key in [*current, *(key for key in default if key not in current)]:
        before, now = default.get(key, _UNSET), current.get(key, _UNSET)
        if before != now:
            shown = _LEFT_OPEN.get(key) if recipe and not before else None
            changes.append({'key': key, 'now': _value(now), 'before': shown or _value(before)})
    return {'recipe': name, 'changes': changes, 'all': [(k, _value(v)) for k, v in current.items()]}


def _value(value: Any) -> str:
    """A value of a config as a person writes it."""
    if value is _UNSET:
        return '—'
    return 'None' if value is None else json.dumps(value, ensure_ascii=False)


def environment(contents: Contents) -> list[tuple[str, str]]:
    """Versions, devices and the source: what the figures depend on beside the config."""
    found = contents.environment
    rows = []
    if found:
        revision = found.get('git_revision')
        if revision:
            changed = ', with changes that are in no commit' if found.get('git_changed') else ''
            rows.append(('Source', f'git {revision}{changed}'))
        packages = found.get('packages', {})
        rows += [
            ('Devices', _counted(found.get('devices', []), found.get('num_devices'))),
            ('Processes', str(found.get('num_processes', '—'))),
            ('Python', str(found.get('python', '—'))),
            ('Platform', str(found.get('platform', '—'))),
            ('Packages', ', '.join(f'{k} {v}' for k, v in packages.items() if v)),
            ('Command', ' '.join(map(str, found.get('command', [])))),
        ]
    if contents.about['fingerprint']:
        rows.append(('Training split', f'fingerprint {contents.about["fingerprint"]}'))
    if contents.evidence:
        result = contents.evidence.result
        rows.append(('Evaluated on', f'{result["dataset"]}, split {result["split"]}'))
        rows.append(('Its fingerprint', result['fingerprint']))
    settings = contents.about['settings']
    rows.append(
        ('Videos prepared with', ', '.join(f'{k} {_value(v)}' for k, v in settings.items()))
    )
    return rows


def _counted(devices: Sequence[str], total: int | None) -> str:
    kinds = ', '.join(sorted(set(map(str, devices))))
    return f'{total} × {kinds}' if total and total > 1 else kinds
