"""MTV on Kinetics-400: the published recipe of Yan et al. (CVPR 2022) for MTV-B.

Arguments:
    variant: the views in the paper's notation, SIZE/FRAMES joined by +; B/2+S/4+Ti/8 is MTV-B,
        the published one.
    tiny: small views on small clips for two steps, to try the recipe anywhere.

Cross-view attention has the width of its queries, as in the published checkpoints; what the paper
counts as GFLOPs seems to be --config.model.cross_view_width=key. The published file leaves the size of the
data set at 0, so that its schedule has no length. The paper starts every view from an image ViT
trained on ImageNet-21k, and evaluates 4x3 views.
configs/README.md says in what training is unlike Scenic's.
"""

from ml_collections import ConfigDict

from vjax import recipes
from vjax.config import parse_arg


def get_config(arg: str | None = None) -> ConfigDict:
    """The config; see the module for `arg`."""
    args = parse_arg(arg, variant='B/2+S/4+Ti/8', tiny=False)
    config = recipes.published('kinetics400', epochs=30, learning_rate=0.1)
    config.augment.update(color_jitter=0.8, color_drop=0.1)
    config.model = recipes.mtv(args.variant, stochastic_depth=0.1)
    if args.tiny:
        recipes.tiny_views(config)
    return config
