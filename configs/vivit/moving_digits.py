"""A small ViViT on the embedded moving digits: minutes on a laptop.

Arguments:
    attention: spacetime, factorised_encoder, factorised_self_attention, factorised_dot_product or
        average_pool.
    order: still for the single-frame baseline, which sees one frame repeated.
    tiny: two steps of a smaller model, for tests.
"""

from ml_collections import ConfigDict

from vjax import recipes
from vjax.config import parse_arg


def get_config(arg: str | None = None) -> ConfigDict:
    """The config; see the module for `arg`."""
    args = parse_arg(arg, attention='factorised_encoder', order='forward', tiny=False)
    pooled = args.attention in ('factorised_self_attention', 'factorised_dot_product')
    config = recipes.moving_digits(args.order)
    config.model = recipes.model(
        'vivit',
        attention=args.attention,
        tubelet=(2, 8, 8),
        width=64,
        depth=2,
        num_heads=4,
        mlp_dim=256,
        temporal_depth=2,
        classifier='gap' if pooled else 'token',
    )
    if args.tiny:
        recipes.tiny(config, width=16, num_heads=2, mlp_dim=32)
    return config
