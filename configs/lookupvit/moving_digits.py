"""A small LookupViT on the embedded moving digits: minutes on a laptop.

Frames have 6x6 lookup tokens. One of `grids` is drawn for every step, so that one trained model runs
at each of them: --config.model.grid="(2, 2)" for vjax.evaluate chooses.

Arguments:
    grid: the compressed grid of evaluations.
    grids: those of training, joined by +; empty for grid alone.
    order: still for the single-frame baseline, which sees one frame repeated.
    tiny: two steps of a smaller model, for tests.
"""

from ml_collections import ConfigDict

from vjax import recipes
from vjax.config import parse_arg, parse_extents


def get_config(arg: str | None = None) -> ConfigDict:
    """The config; see the module for `arg`."""
    args = parse_arg(arg, grid='3x3', grids='1x1+2x2+3x3+5x5', order='forward', tiny=False)
    config = recipes.moving_digits(args.order)
    config.model = recipes.model(
        'lookupvivit',
        attention='factorised_encoder',
        tubelet=(2, 8, 8),
        width=64,
        depth=2,
        num_heads=4,
        mlp_dim=256,
        temporal_depth=2,
        grid=parse_extents(args.grid),
        classifier='gap',
    )
    if args.grids:
        config.vary.grid = tuple(map(parse_extents, args.grids.split('+')))
    if args.tiny:
        recipes.tiny_grids(config)
    return config
