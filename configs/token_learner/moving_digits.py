"""A small TokenLearner on the embedded moving digits: minutes on a laptop.

Arguments:
    attention: spacetime (the paper's: learned tokens of all frames attend to each other) or
        factorised_encoder (TokenLearner within the frames of ViViT's Model 2).
    tokens: how many tokens are learned in each frame.
    fuser: use TokenFuser in every layer from there on.
    order: still for the single-frame baseline, which sees one frame repeated.
    tiny: two steps of a smaller model, for tests.
"""

from ml_collections import ConfigDict

from vjax import recipes
from vjax.config import parse_arg


def get_config(arg: str | None = None) -> ConfigDict:
    """The config; see the module for `arg`."""
    args = parse_arg(arg, attention='spacetime', tokens=8, fuser=False, order='forward', tiny=False)
    config = recipes.moving_digits(args.order)
    config.model = recipes.model(
        'token_learner_video',
        attention=args.attention,
        tubelet=(2, 8, 8),
        width=64,
        depth=4,
        num_heads=4,
        mlp_dim=256,
        temporal_depth=2,
        learned_tokens=args.tokens,
        location=2,
        fuser=args.fuser,
        classifier='gap',
    )
    if args.tiny:
        recipes.tiny(config, width=16, depth=2, num_heads=2, mlp_dim=32, location=1)
    return config
