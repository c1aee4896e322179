"""Describe a config: python -m vjax.describe --config=configs/vivit/kinetics400.py:variant=B/16x2

Counts parameters, multiply-adds and tokens, and the memory of the training state, without a data set
and without allocating a weight. GFLOPs are the papers': multiply-adds of one forward pass of one view.
"""

import json
import math
from typing import Any

import jax
import ml_collections

from vjax import cli, models
from vjax import config as configs
from vjax.data import records
from vjax.errors import UserError
from vjax.models import costs
from vjax.training import optimizer, runs
from vjax.training.step import init_state


def describe(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """What the model of `config` costs.

    The class count is the model's where the config insists on one, else the data set's where it is
    at hand, else `config.dataset.num_classes`.

    Returns:
        `params`, `gflops_per_view`, `tokens`, `state_bytes` (parameters, optimiser and moving
        average), `by_module` (parameters of the top-level modules), `num_classes`, `clip`,
        and the whole `config`.

    Raises:
        UserError: the config cannot be trained.
    """
    configs.check(config)
    config = config.copy_and_resolve_references()
    config.model.num_classes = config.model.num_classes or _num_classes(config)
    shape = configs.clip_shape(config)
    model = models.build(**config.model)
    params = jax.eval_shape(lambda: runs.init_params(model, config))
    tx, _ = optimizer.build(params, 1, **config.optimizer)
    state = jax.eval_shape(lambda p: init_state(p, tx, ema=config.ema > 0), params)
    return {
        'model': config.model.name,
        'num_classes': config.model.num_classes,
        'clip': list(shape),
        'params': costs.count_params(params),
        'gflops_per_view': costs.gflops(model, shape),
        'tokens': model.num_tokens(shape),
        'state_bytes': sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(state)),
        'config': json.loads(config.to_json()),
        'by_module': {name: costs.count_params(tree) for name, tree in params.items()},
    }


def _num_classes(config: ml_collections.ConfigDict) -> int:
    try:
        classes = records.open_dataset(config.dataset.path).classes
        return sum(map(len, classes.values()))
    except UserError:  # Not prepared yet, which is no reason not to describe.
        return config.dataset.num_classes


def main(argv: list[str]) -> None:
    """Parses the command line and prints."""
    parser = cli.parser(__doc__)
    cli.add_config(parser)
    parser.add_argument('--json', action='store_true', help='print one JSON object')
    args, overrides = cli.parse_args(parser, argv)
    costs_of = describe(cli.load_config(args.config, overrides))
    if args.json:
        print(json.dumps(costs_of))
        return
    time, height, width, _ = costs_of['clip']
    print(f'{args.config}')
    print(f'  clip             {time} x {height} x {width}')
    print(f'  classes          {costs_of["num_classes"]}')
    print(f'  tokens           {costs_of["tokens"]:,}')
    print(f'  GFLOPs per view  {costs_of["gflops_per_view"]:.4g}')
    print(f'  training state   {costs_of["state_bytes"] / 2**20:,.1f} MiB')
    print(f'  parameters       {costs_of["params"]:,}')
    for name, count in costs_of['by_module'].items():
        print(f'    {name:<18}{count:>13,}')


if __name__ == '__main__':
    cli.run(main)
