"""ViViT-L/16x2 with the factorised encoder on EPIC-Kitchens-100: Arnab et al. (ICCV 2021), Tab. 3 and 7.

Arguments:
    variant: the paper's notation; L/16x2 is the published one.
    tiny: a small model on small clips for two steps, to try the recipe anywhere.

Two heads: prepare the data set with the columns path,noun,verb (300 and 97 classes); top-1 is then
the action's. The published file is a SyntaxError, leaves the number of classes open, and its reader
knows one label only; here it runs. It starts from a ViViT trained on Kinetics (init_from), with
model.temporal_depth=4 there, too; the published file overwrites its path with nothing. RandAugment has
the operations that move no pixels, as there. The published results are of 4x1 views.
configs/README.md says in what training is unlike Scenic's.
"""

from ml_collections import ConfigDict

from vjax import recipes
from vjax.config import parse_arg
from vjax.models import variants


def get_config(arg: str | None = None) -> ConfigDict:
    """The config; see the module for `arg`."""
    args = parse_arg(arg, variant='L/16x2', tiny=False)
    config = recipes.published('epic_kitchens', epochs=50, learning_rate=0.5)
    config.clip.stride = 1
    config.augment.update(rand_augment=2, rand_augment_magnitude=15.0, rand_augment_ops='colors')
    config.loss.update(label_smoothing=0.2, mixup=0.1)
    config.model = recipes.model(
        'vivit',
        attention='factorised_encoder',
        **variants.video(args.variant),
        temporal_depth=4,
        classifier='token',
        tubelet_init='central_frame',
        stochastic_depth=0.2,
    )
    if args.tiny:
        recipes.tiny(config, width=16, depth=2, num_heads=2, mlp_dim=32, temporal_depth=1)
    return config
