"""ViViT-L/16x2 with the factorised encoder on Moments in Time: Arnab et al. (ICCV 2021), Tab. 5 and 7.

Arguments:
    variant: the paper's notation; L/16x2 is the one of Tab. 5.
    tiny: a small model on small clips for two steps, to try the recipe anywhere.

No config was published: this is the paper's Tab. 7, with the temporal depth of the published
Kinetics configs. The paper starts from an image ViT trained on ImageNet-21k.
"""

from ml_collections import ConfigDict

from vjax import recipes
from vjax.config import parse_arg
from vjax.models import variants


def get_config(arg: str | None = None) -> ConfigDict:
    """The config; see the module for `arg`."""
    args = parse_arg(arg, variant='L/16x2', tiny=False)
    config = recipes.published('moments_in_time', epochs=10, learning_rate=0.25)
    config.augment.color_jitter = 0.8
    config.model = recipes.model(
        'vivit',
        attention='factorised_encoder',
        **variants.video(args.variant),
        temporal_depth=24 if args.variant.startswith('L/') else 4,
        classifier='token',
        tubelet_init='central_frame',
    )
    if args.tiny:
        recipes.tiny(config, width=16, depth=2, num_heads=2, mlp_dim=32, temporal_depth=1)
    return config
