"""ViViT on Kinetics-400: the recipes of Arnab et al. (ICCV 2021), appendix, Tab. 7.

Arguments:
    variant: the paper's notation; B/16x2 and L/16x2 are the published ones.
    attention: spacetime (Model 1), factorised_encoder (2), factorised_self_attention (3),
        factorised_dot_product (4), or average_pool (the baseline of Tab. 2).
    tiny: a small model on small clips for two steps, to try the recipe anywhere.

Learning rates are those of the published configs where there is one: 0.05 for the factorised
encoder at size B, 0.1 otherwise. L/16x2 with the factorised encoder has 24 temporal layers: the
paper's text says 4, but its 995.3 GFLOPs and the published config are those of 24. The paper starts
from an image ViT trained on ImageNet-21k; from scratch, expect less. The paper evaluates 4x3 views.
Models 3 and 4 have no published config: theirs is the recipe of the others.
configs/README.md says in what training is unlike Scenic's.
"""

from ml_collections import ConfigDict

from vjax import recipes
from vjax.config import parse_arg
from vjax.models import variants


def get_config(arg: str | None = None) -> ConfigDict:
    """The config; see the module for `arg`."""
    args = parse_arg(arg, variant='B/16x2', attention='factorised_encoder', tiny=False)
    pooled = args.attention in ('factorised_self_attention', 'factorised_dot_product')
    base_encoder = args.attention == 'factorised_encoder' and args.variant.startswith('B/')
    config = recipes.published(
        'kinetics400', epochs=30, learning_rate=0.05 if base_encoder else 0.1
    )
    config.augment.update(color_jitter=0.8, color_drop=0.1)
    config.model = recipes.model(
        'vivit',
        attention=args.attention,
        **variants.video(args.variant),
        temporal_depth=24 if args.variant.startswith('L/') else 4,
        classifier='gap' if pooled else 'token',
        tubelet_init='central_frame',
    )
    if args.tiny:
        recipes.tiny(config, width=16, depth=2, num_heads=2, mlp_dim=32, temporal_depth=1)
    return config
