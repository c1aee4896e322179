"""Attentive probe of a frozen ViViT on Kinetics-400: V-JEPA 2's protocol.

    python -m vjax.train --config=configs/probe/kinetics400.py --workdir=runs/probe \
        --config.init_from=WORKDIR

Arguments:
    variant: of the encoder, in ViViT's notation.
    attention: of the encoder, as in configs/vivit/kinetics400.py.
    tiny: a small model on small clips for two steps, to try the recipe anywhere.

Four blocks of 16 heads on the encoder's final tokens, 20 epochs of AdamW with a batch of 256 and neither
warm-up nor clipping, half a cosine to zero, weight decay on all parameters, are those of the evaluation
configs that came with V-JEPA 2 (Assran et al., arXiv 2506.09985; github.com/facebookresearch/vjepa2). They
train a probe for each of the learning rates 5e-3, 3e-3, 1e-3, 3e-4, 1e-4 and weight decays 0.01, 0.1, 0.4,
0.8 and report the best one; here is one of each, the others are overrides. Random resized crops,
RandAugment, random erasing and no flips are the protocol's, too, but for their order: there frames are
distorted before they are cropped, and bicubically. Clips of 32 frames are ViViT's.

Clips are not joined as there, so figures of the two are not to be set side by side: there a probe is
trained, and evaluated, on the tokens of eight clips of a video at once (two of Something-Something), and
the probabilities of three crops are averaged. Here it sees one clip, and `--views=8x3` averages the logits
of 24. Nobody has run this at full size; configs/probe/moving_digits.py is the same in small.

The probe of another model: write its `recipes.model`, or `recipes.mtv`, for the encoder.
"""

from ml_collections import ConfigDict

from vjax import recipes
from vjax.config import parse_arg
from vjax.models import variants


def get_config(arg: str | None = None) -> ConfigDict:
    """The config; see the module for `arg`."""
    args = parse_arg(arg, variant='B/16x2', attention='factorised_encoder', tiny=False)
    pooled = args.attention in ('factorised_self_attention', 'factorised_dot_product')
    config = recipes.published(
        'kinetics400', epochs=20, learning_rate=1e-3, batch_size=256, warmup_epochs=0.0
    )
    config.augment.update(scale_jitter=(1.0, 1.0), random_crop=False, area=(0.08, 1.0))
    config.augment.update(aspect=(3 / 4, 4 / 3), flip=0.0, erase=0.25)
    # timm's rand-m7-n4-mstd0.5-inc1.
    config.augment.update(
        rand_augment=4,
        rand_augment_magnitude=7.0,
        rand_augment_std=0.5,
        rand_augment_probability=0.5,
        rand_augment_ops='increasing',
    )
    size = variants.video(args.variant)
    encoder = recipes.model(
        'vivit',
        attention=args.attention,
        **size,
        temporal_depth=24 if args.variant.startswith('L/') else 4,
        classifier='gap' if pooled else 'token',
    )
    config.model = recipes.probe(encoder, num_heads=16, mlp_dim=4 * size['width'], gelu='erf')
    config.optimizer.update(
        name='adamw',
        b1=0.9,
        b2=0.999,
        clip_norm=0.0,
        weight_decay=(('encoder/.*', 0.0), ('.*', 0.1)),
        freeze=('encoder/.*',),
    )
    if args.tiny:
        small = dict(width=16, depth=2, num_heads=2, mlp_dim=32, temporal_depth=1)
        recipes.tiny(config, num_heads=2, mlp_dim=32, encoder=small)
    return config
