"""ViViT-L/16x2 with the factorised encoder on Kinetics-600: Arnab et al. (ICCV 2021), Tab. 5 and 7.

Arguments:
    variant: the paper's notation; L/16x2 is the published one.
    attention: as in configs/vivit/kinetics400.py.
    tiny: a small model on small clips for two steps, to try the recipe anywhere.

The learning rate is the published config's, 0.05, where the paper's table has 0.1; the temporal
encoder has 24 layers, as there. The paper starts from an image ViT trained on ImageNet-21k, and
evaluates 4x3 views.
configs/README.md says in what training is unlike Scenic's.
"""

from ml_collections import ConfigDict

from vjax import recipes
from vjax.config import parse_arg
from vjax.models import variants


def get_config(arg: str | None = None) -> ConfigDict:
    """The config; see the module for `arg`."""
    args = parse_arg(arg, variant='L/16x2', attention='factorised_encoder', tiny=False)
    pooled = args.attention in ('factorised_self_attention', 'factorised_dot_product')
    config = recipes.published('kinetics600', epochs=30, learning_rate=0.05)
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
