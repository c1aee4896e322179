"""LookupViT in a video transformer on Kinetics-400 (Koner et al., ECCV 2024).

Arguments:
    variant: SIZE/PATCHxFRAMES.
    grid: the compressed grid, HEIGHTxWIDTH; with attention=spacetime also TIMExHEIGHTxWIDTH, where
        otherwise time is not compressed.
    grids: compressed grids joined by +, one of which is drawn for every step, as long as those of the
        model; grid is then that of evaluations. Empty: always grid.
    attention: factorised_encoder (LookupViT in the frames of ViViT's Model 2) or spacetime.
    tiny: a small model on small clips for two steps, to try the recipe anywhere.

No code and no config was published: the recipe is that of ViViT on Kinetics-400, and what the model
leaves open is said in vjax/models/lookupvit.py.
"""

from ml_collections import ConfigDict

from vjax import recipes
from vjax.config import parse_arg, parse_extents


def get_config(arg: str | None = None) -> ConfigDict:
    """The config; see the module for `arg`."""
    args = parse_arg(
        arg, variant='B/16x2', grid='5x5', grids='', attention='factorised_encoder', tiny=False
    )
    config = recipes.published('kinetics400', epochs=30, learning_rate=0.1)
    config.augment.update(color_jitter=0.8, color_drop=0.1)
    config.model = recipes.lookupvivit(
        args.variant,
        args.attention,
        parse_extents(args.grid),
        config.clip.num_frames,
    )
    if args.grids:
        config.vary.grid = tuple(map(parse_extents, args.grids.split('+')))
    if args.tiny:
        recipes.tiny_grids(config)
    return config
