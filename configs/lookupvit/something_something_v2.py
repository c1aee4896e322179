"""LookupViT in a video transformer on Something-Something v2 (Koner et al., ECCV 2024).

Arguments:
    variant: SIZE/PATCHxFRAMES.
    grid: the compressed grid, HEIGHTxWIDTH; with attention=spacetime also TIMExHEIGHTxWIDTH, where
        otherwise time is not compressed.
    grids: compressed grids joined by +, one of which is drawn for every step, as long as those of the
        model; grid is then that of evaluations. Empty: always grid.
    attention: factorised_encoder (LookupViT in the frames of ViViT's Model 2) or spacetime.
    tiny: a small model on small clips for two steps, to try the recipe anywhere.

No code and no config was published: the recipe is that of ViViT on Something-Something v2, at 224
pixels and without flips, because classes are named after left and right. What the model leaves open is
said in vjax/models/lookupvit.py.
"""

from ml_collections import ConfigDict

from vjax import recipes
from vjax.config import parse_arg, parse_extents


def get_config(arg: str | None = None) -> ConfigDict:
    """The config; see the module for `arg`."""
    args = parse_arg(
        arg, variant='B/16x2', grid='5x5', grids='', attention='factorised_encoder', tiny=False
    )
    config = recipes.published('something_something_v2', epochs=35, learning_rate=0.4)
    config.clip.stride = 1
    config.augment.update(flip=0.0, rand_augment=2, rand_augment_magnitude=20.0)
    config.augment.rand_augment_ops = 'colors'
    config.loss.update(label_smoothing=0.3, mixup=0.3)
    config.model = recipes.lookupvivit(
        args.variant,
        args.attention,
        parse_extents(args.grid),
        config.clip.num_frames,
        stochastic_depth=0.3,
    )
    if args.grids:
        config.vary.grid = tuple(map(parse_extents, args.grids.split('+')))
    if args.tiny:
        recipes.tiny_grids(config)
    return config
