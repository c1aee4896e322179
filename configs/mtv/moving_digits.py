"""A small MTV on the embedded moving digits: minutes on a laptop.

Two views of each clip: tubelets of 2 frames for the wider transformer, of 4 for the narrower one.

Arguments:
    fusion: cross_view_attention, bottleneck or none.
    order: still for the single-frame baseline, which sees one frame repeated.
    tiny: two steps of smaller views, for tests.
"""

from ml_collections import ConfigDict

from vjax import recipes
from vjax.config import parse_arg


def get_config(arg: str | None = None) -> ConfigDict:
    """The config; see the module for `arg`."""
    args = parse_arg(arg, fusion='cross_view_attention', order='forward', tiny=False)
    config = recipes.moving_digits(args.order)
    config.model = recipes.model(
        'mtv',
        widths=(32, 48),
        depths=(2, 2),
        num_heads=(4, 4),
        mlp_dims=(128, 192),
        tubelets=((4, 8, 8), (2, 8, 8)),
        fusion=args.fusion,
        fusion_layers=(1,),
        cross_view_width='query',
        global_depth=2,
        global_num_heads=4,
        global_mlp_dim=256,
        classifier='token',
    )
    if args.tiny:
        recipes.tiny_views(config)
    return config
