"""MTV on EPIC-Kitchens-100: the published recipe of Yan et al. (CVPR 2022) for MTV-B.

Arguments:
    variant: the views in the paper's notation, SIZE/FRAMES joined by +; B/2+S/4+Ti/8 is MTV-B,
        the published one.
    tiny: small views on small clips for two steps, to try the recipe anywhere.

64 frames, every one of the video. Two heads: prepare the data set with the columns path,noun,verb
(300 and 97 classes); top-1 is then the action's. The published file leaves the number of classes
open, and its reader knows one label only. It switches colour jitter on, too, but in Scenic RandAugment,
there without the operations that move pixels, takes its place. It starts from an MTV trained on Kinetics
(init_from), whose tables of positions, made for 32 frames, are resized; it is evaluated with 4x1 views.
configs/README.md says in what training is unlike Scenic's.
"""

from ml_collections import ConfigDict

from vjax import recipes
from vjax.config import parse_arg


def get_config(arg: str | None = None) -> ConfigDict:
    """The config; see the module for `arg`."""
    args = parse_arg(arg, variant='B/2+S/4+Ti/8', tiny=False)
    config = recipes.published('epic_kitchens', epochs=80, learning_rate=0.2, batch_size=128)
    config.clip.update(num_frames=64, stride=1)
    config.augment.update(rand_augment=3, rand_augment_magnitude=10.0, rand_augment_ops='colors')
    config.loss.label_smoothing = 0.2
    config.model = recipes.mtv(args.variant, stochastic_depth=0.1)
    if args.tiny:
        recipes.tiny_views(config)
    return config
