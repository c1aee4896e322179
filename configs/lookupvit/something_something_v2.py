"""LookupViT in a video transformer on Something-Something v2 (Koner et al., ECCV 2024).

Arguments:
    variant: SIZE/PATCHxFRAMES.
    grid: the compressed grid, HEIGHTxWIDTH; with attention=spacetime TIMExHEIGHTxWIDTH.
    grids: compressed grids joined by +, one of which is drawn for every step; grid is then that of
        evaluations. Empty: always grid.
    attention: factorised_encoder (LookupViT in the frames of ViViT's Model 2) or spacetime.
    tiny: a small model on small clips for two steps, to try the recipe anywhere.

No code and no config was published: the recipe is that of ViViT on Something-Something v2, at 224
pixels and without RandAugment; what the model leaves open is said in vjax/models/lookupvit.py.
"""

from ml_collections import ConfigDict

from vjax import recipes
from vjax.config import parse_arg, parse_extents
from vjax.models import variants


def get_config(arg: str | None = None) -> ConfigDict:
    """The config; see the module for `arg`."""
    args = parse_arg(
        arg, variant='B/16x2', grid='5x5', grids='', attention='factorised_encoder', tiny=False
    )
    config = recipes.published('something_something_v2', epochs=35, learning_rate=0.4)
    config.clip.stride = 1
    config.loss.update(label_smoothing=0.3, mixup=0.3)
    config.model = recipes.model(
        'lookupvivit',
        attention=args.attention,
        **variants.video(args.variant),
        temporal_depth=4,
        grid=parse_extents(args.grid),
        classifier='gap',
        tubelet_init='central_frame',
        stochastic_depth=0.3,
    )
    if args.grids:
        config.vary.grid = tuple(map(parse_extents, args.grids.split('+')))
    if args.tiny:
        sizes = dict(width=16, depth=2, num_heads=2, mlp_dim=32, temporal_depth=1)
        rank = len(config.model.grid)
        recipes.tiny(config, **sizes, grid=(1, 2, 1)[-rank:])
        if args.grids:
            config.vary.grid = tuple(extents[-rank:] for extents in ((1, 1, 1), (2, 2, 2)))
    return config
