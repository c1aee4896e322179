"""MTV on Moments in Time: the published recipe of Yan et al. (CVPR 2022) for MTV-L.

Arguments:
    variant: the views in the paper's notation, SIZE/FRAMES joined by +; L/2+B/4+S/8+Ti/16 is MTV-L,
        the published one.
    tiny: small views on small clips for two steps, to try the recipe anywhere.

The published file leaves the number of classes (339) open. It starts from an MTV trained on Kinetics
(init_from), and is evaluated with 1x3 views.
configs/README.md says in what training is unlike Scenic's.
"""

from ml_collections import ConfigDict

from vjax import recipes
from vjax.config import parse_arg


def get_config(arg: str | None = None) -> ConfigDict:
    """The config; see the module for `arg`."""
    args = parse_arg(arg, variant='L/2+B/4+S/8+Ti/16', tiny=False)
    config = recipes.published('moments_in_time', epochs=20, learning_rate=0.2, batch_size=256)
    config.clip.stride = 3
    config.augment.update(color_jitter=0.8, color_drop=0.1)
    config.loss.mixup = 0.2
    config.model = recipes.mtv(args.variant, stochastic_depth=0.1)
    if args.tiny:
        recipes.tiny_views(config)
    return config
