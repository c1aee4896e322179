"""TokenLearner in a video transformer on Kinetics-400 (Ryoo et al., NeurIPS 2021, section 4).

Arguments:
    variant: SIZE/PATCHxFRAMES; the paper's are of size L.
    tokens: how many tokens are learned in each frame.
    location: the layer before which they are; -1 is three quarters of the depth.
    attention: spacetime (every token attends to every token, as in the paper) or
        factorised_encoder (TokenLearner in the spatial encoder of ViViT's Model 2).
    version: 1.0 (whose costs are the paper's) or 1.1 of the module.
    fuser: use TokenFuser in every layer from there on.
    tiny: a small model on small clips for two steps, to try the recipe anywhere.

No config was published. The model is the paper's, `16 tokens at 12` of L/16x2 by variant=L/16x2,
location=12; the recipe is that of ViViT on Kinetics-400, which the paper builds on.
"""

from ml_collections import ConfigDict

from vjax import recipes
from vjax.config import parse_arg
from vjax.models import variants


def get_config(arg: str | None = None) -> ConfigDict:
    """The config; see the module for `arg`."""
    args = parse_arg(
        arg,
        variant='B/16x2',
        tokens=16,
        location=-1,
        attention='spacetime',
        version='1.0',
        fuser=False,
        tiny=False,
    )
    config = recipes.published('kinetics400', epochs=30, learning_rate=0.1)
    config.augment.update(color_jitter=0.8, color_drop=0.1)
    config.model = recipes.model(
        'token_learner_video',
        attention=args.attention,
        **variants.video(args.variant),
        temporal_depth=4,
        learned_tokens=args.tokens,
        location=args.location,
        version=args.version,
        fuser=args.fuser,
        classifier='gap',
        tubelet_init='central_frame',
    )
    if args.tiny:
        sizes = dict(width=16, depth=2, num_heads=2, mlp_dim=32, temporal_depth=1)
        recipes.tiny(config, **sizes, location=1, learned_tokens=2)
    return config
