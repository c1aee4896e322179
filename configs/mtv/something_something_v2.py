"""MTV on Something-Something v2: the published recipe of Yan et al. (CVPR 2022) for MTV-B.

Arguments:
    variant: the views in the paper's notation, SIZE/FRAMES joined by +; B/2+S/4+Ti/8 is MTV-B,
        the published one.
    tiny: small views on small clips for two steps, to try the recipe anywhere.

48 frames, every one of the video. The published file leaves the number of classes open. It switches
colour jitter on, too, but in Scenic RandAugment, there without the operations that move pixels, takes
its place. It flips left and right, although classes are named after them: set augment.flip_labels=keep,
or mirror, or augment.flip=0. It starts from an MTV trained on Kinetics (init_from), whose tables of
positions, made for 32 frames, are resized; it is evaluated with 4x3 views.
configs/README.md says in what training is unlike Scenic's.
"""

from ml_collections import ConfigDict

from vjax import recipes
from vjax.config import parse_arg


def get_config(arg: str | None = None) -> ConfigDict:
    """The config; see the module for `arg`."""
    args = parse_arg(arg, variant='B/2+S/4+Ti/8', tiny=False)
    config = recipes.published(
        'something_something_v2', epochs=60, learning_rate=0.2, batch_size=256
    )
    config.clip.update(num_frames=48, stride=1)
    config.augment.update(rand_augment=1, rand_augment_magnitude=15.0, rand_augment_ops='colors')
    config.loss.update(label_smoothing=0.2, mixup=0.3)
    config.model = recipes.mtv(args.variant, stochastic_depth=0.1)
    if args.tiny:
        recipes.tiny_views(config)
    return config
