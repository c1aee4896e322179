"""ViViT-L/16x2 with the factorised encoder on Something-Something v2: Arnab et al. (ICCV 2021), Tab. 7.

Arguments:
    variant: the paper's notation; L/16x2 is the published one.
    tiny: a small model on small clips for two steps, to try the recipe anywhere.

The published config: crops of 256 pixels from short side 288, learning rate 0.4 (the paper's table
has 0.5), 4 temporal layers. It flips left and right, although classes are named after them, and so
does this one: set augment.flip_labels=keep, or mirror, or augment.flip=0. It starts from a ViViT trained on
Kinetics (init_from), with model.temporal_depth=4 there, too, whose position embeddings for 14x14 patches
are resized; the published file overwrites its path with nothing. RandAugment has the operations
that move no pixels, as there; at magnitude 20 its posterize changes nothing and its solarize inverts. The
paper evaluates 4x3 views.
configs/README.md says in what training is unlike Scenic's.
"""

from ml_collections import ConfigDict

from vjax import recipes
from vjax.config import parse_arg
from vjax.models import variants


def get_config(arg: str | None = None) -> ConfigDict:
    """The config; see the module for `arg`."""
    args = parse_arg(arg, variant='L/16x2', tiny=False)
    config = recipes.published('something_something_v2', epochs=35, learning_rate=0.4)
    config.clip.update(stride=1, short_side=288, size=256)
    config.augment.update(rand_augment=2, rand_augment_magnitude=20.0, rand_augment_ops='colors')
    config.loss.update(label_smoothing=0.3, mixup=0.3)
    config.model = recipes.model(
        'vivit',
        attention='factorised_encoder',
        **variants.video(args.variant),
        temporal_depth=4,
        classifier='token',
        tubelet_init='central_frame',
        stochastic_depth=0.3,
    )
    if args.tiny:
        recipes.tiny(config, width=16, depth=2, num_heads=2, mlp_dim=32, temporal_depth=1)
    return config
