"""MTV on Kinetics-600: the published recipes of Yan et al. (CVPR 2022) for MTV-B and MTV-L.

Arguments:
    variant: the views in the paper's notation, SIZE/FRAMES joined by +; B/2+S/4+Ti/8 (MTV-B) and
        L/2+B/4+S/8+Ti/16 (MTV-L) are the published ones.
    tiny: small views on small clips for two steps, to try the recipe anywhere.

The learning rate is 0.2 for MTV-B and 0.1 for MTV-L. The published files leave the size of the data
set at 0, and that of MTV-L the number of classes open; see also configs/mtv/kinetics400.py.
configs/README.md says in what training is unlike Scenic's.
"""

from ml_collections import ConfigDict

from vjax import recipes
from vjax.config import parse_arg


def get_config(arg: str | None = None) -> ConfigDict:
    """The config; see the module for `arg`."""
    args = parse_arg(arg, variant='B/2+S/4+Ti/8', tiny=False)
    config = recipes.published('kinetics600', epochs=30, learning_rate=0.2)
    config.augment.update(color_jitter=0.8, color_drop=0.1)
    config.model = recipes.mtv(args.variant, stochastic_depth=0.1)
    if max(config.model.depths) > 12:
        config.optimizer.learning_rate = 0.1
    if args.tiny:
        recipes.tiny_views(config)
    return config
