"""Fine-tuning a small ViViT on a few moving digits: configs/vivit/finetune_kinetics400.py in small.

    python -m vjax.train --config=configs/vivit/finetune_moving_digits.py --workdir=runs/finetuned \
        --config.init_from=runs/demo/vivit --config.dataset.path=...

Arguments:
    attention: as in configs/vivit/moving_digits.py, whose model this is.
    layer_decay: factor on the learning rate from a layer to the one below it.
    tiny: two steps of a smaller model, for tests.

AdamW and warm-up are those of training from scratch; layer decay, label smoothing and stochastic depth
those of the recipe for Kinetics, and mixup is weaker than there. Nothing was tuned. experiments/transfer
compares it with a probe and with training from scratch.
"""

from ml_collections import ConfigDict

from vjax import recipes
from vjax.config import parse_arg


def get_config(arg: str | None = None) -> ConfigDict:
    """The config; see the module for `arg`."""
    args = parse_arg(arg, attention='factorised_encoder', layer_decay=0.75, tiny=False)
    pooled = args.attention in ('factorised_self_attention', 'factorised_dot_product')
    config = recipes.moving_digits()
    config.loss.update(label_smoothing=0.1, mixup=0.1)
    config.model = recipes.model(
        'vivit',
        attention=args.attention,
        tubelet=(2, 8, 8),
        width=64,
        depth=2,
        num_heads=4,
        mlp_dim=256,
        temporal_depth=2,
        classifier='gap' if pooled else 'token',
        stochastic_depth=0.1,
    )
    if args.tiny:
        recipes.tiny(config, width=16, num_heads=2, mlp_dim=32)
    config.optimizer.learning_rate_scale = recipes.layer_decay(args.layer_decay, config.model)
    return config
