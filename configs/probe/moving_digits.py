"""Attentive probe of a small frozen ViViT on a few moving digits: configs/probe/kinetics400.py in small.

    python -m vjax.train --config=configs/probe/moving_digits.py --workdir=runs/probe \
        --config.init_from=runs/demo/vivit --config.dataset.path=...

Arguments:
    attention: of the encoder, as in configs/vivit/moving_digits.py, whose model it is.
    tiny: two steps of a smaller model, for tests.

Learning rate, warm-up and steps are those of training from scratch; nothing was tuned.
experiments/transfer compares it with fine-tuning and with training from scratch.
"""

from ml_collections import ConfigDict

from vjax import recipes
from vjax.config import parse_arg


def get_config(arg: str | None = None) -> ConfigDict:
    """The config; see the module for `arg`."""
    args = parse_arg(arg, attention='factorised_encoder', tiny=False)
    pooled = args.attention in ('factorised_self_attention', 'factorised_dot_product')
    config = recipes.moving_digits()
    encoder = recipes.model(
        'vivit',
        attention=args.attention,
        tubelet=(2, 8, 8),
        width=64,
        depth=2,
        num_heads=4,
        mlp_dim=256,
        temporal_depth=2,
        classifier='gap' if pooled else 'token',
    )
    config.model = recipes.probe(encoder, num_heads=4, mlp_dim=256, gelu='erf')
    config.optimizer.update(
        weight_decay=(('encoder/.*', 0.0), ('.*', 0.05)),
        freeze=('encoder/.*',),
    )
    if args.tiny:
        small = dict(width=16, num_heads=2, mlp_dim=32)
        recipes.tiny(config, num_heads=2, mlp_dim=32, encoder=small)
    return config
