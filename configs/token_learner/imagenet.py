"""TokenLearner on ImageNet: the published recipe of Ryoo et al. (NeurIPS 2021).

Arguments:
    variant: SIZE/PATCH; B/16 is the published one.
    tokens: how many tokens are learned; 16 is the published number.
    location: the layer before which they are; -1 is three quarters of the depth (9 of 12).
    version: 1.1 or 1.0 of the module.
    fuser: use TokenFuser in every layer from there on.
    tiny: a small model on small images for two steps, to try the recipe anywhere.

An image is a video of one frame, for vjax.prepare as well. Each class is a question of its own: a
sigmoid loss, with a head whose bias starts at -10. AdamW in place of the published Adam, whose weight
decay of 0.3 is decoupled, too. The published config asks for stochastic depth of 0.1, which Scenic's
model never receives: it is off here. Scenic's reader resizes bicubically and normalises by the mean and
deviation of ImageNet's colours; here values are in [-1, 1] as everywhere. configs/README.md says in what
else training is unlike Scenic's.
"""

from ml_collections import ConfigDict

from vjax import recipes
from vjax.config import parse_arg
from vjax.models import variants


def get_config(arg: str | None = None) -> ConfigDict:
    """The config; see the module for `arg`."""
    args = parse_arg(
        arg, variant='B/16', tokens=16, location=-1, version='1.1', fuser=False, tiny=False
    )
    config = recipes.published(
        'imagenet', epochs=90, learning_rate=5e-3, batch_size=4096, warmup_epochs=10_000 / 312.8
    )
    config.clip.update(num_frames=1, stride=1)
    config.augment.update(scale_jitter=(1.0, 1.0), random_crop=False, area=(0.08, 1.0))
    config.loss.name = 'sigmoid'
    config.optimizer.update(
        name='adamw', decay='linear', end_learning_rate=1e-5, weight_decay=(('.*', 0.3),)
    )
    config.model = recipes.model(
        'token_learner',
        **variants.image(args.variant),
        learned_tokens=args.tokens,
        location=args.location,
        version=args.version,
        fuser=args.fuser,
        classifier='gap',
        head_bias=-10.0,
    )
    if args.tiny:
        recipes.tiny(config, width=16, depth=2, num_heads=2, mlp_dim=32, location=1)
    return config
