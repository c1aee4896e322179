"""A small ViViT on the embedded moving digits: minutes on a laptop.

Arguments:
    task: motion6, or a set whose videos have several labels: two_motions (multi-label) or
        digit_and_motion (two heads). See vjax/data/moving_digits.py.
    attention: spacetime, factorised_encoder, factorised_self_attention, factorised_dot_product or
        average_pool.
    order: still for the single-frame baseline, which sees one frame repeated.
    tiny: two steps of a smaller model, for tests.
"""

from ml_collections import ConfigDict

from vjax import recipes
from vjax.config import parse_arg
from vjax.errors import UserError

# Steps, classes of all heads, and the loss.
TASKS = {
    'motion6': (500, 6, 'softmax'),
    'two_motions': (1000, 6, 'sigmoid'),
    'digit_and_motion': (1000, 11, 'softmax'),
}


def get_config(arg: str | None = None) -> ConfigDict:
    """The config; see the module for `arg`."""
    args = parse_arg(
        arg, task='motion6', attention='factorised_encoder', order='forward', tiny=False
    )
    if args.task not in TASKS:
        raise UserError(f"config argument 'task={args.task}' is not one of {', '.join(TASKS)}.")
    pooled = args.attention in ('factorised_self_attention', 'factorised_dot_product')
    config = recipes.moving_digits(args.order)
    config.num_steps, config.dataset.num_classes, config.loss.name = TASKS[args.task]
    if args.task != 'motion6':
        config.dataset.path = f'runs/labels/{args.task}/dataset'
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
    )
    if args.tiny:
        recipes.tiny(config, width=16, num_heads=2, mlp_dim=32)
    return config
