"""Fine-tuning a ViViT on Kinetics-400 from weights that somebody has: VideoMAE's recipe.

    python -m vjax.train --config=configs/vivit/finetune_kinetics400.py --workdir=runs/finetuned \
        --config.init_from=vit:B_16.npz

Arguments:
    variant: the paper's notation, such as B/16x2.
    attention: as in configs/vivit/kinetics400.py.
    layer_decay: factor on the learning rate from a layer to the one below it.
    tiny: a small model on small clips for two steps, to try the recipe anywhere.

AdamW with its betas, base learning rate 1e-3 for 256 clips (hence 2e-3 for a batch of 512), weight decay
0.05 on kernels alone, 100 epochs of which 5 warm up, no clipping of gradients, layer decay 0.75,
stochastic depth 0.1, label smoothing 0.1, mixup 0.8 and cutmix 1.0, random resized crops, flips,
RandAugment and random erasing are those of the scripts for ViT-B that came with VideoMAE (Tong et al.,
arXiv 2203.12602; github.com/MCG-NJU/VideoMAE); there frames are distorted before they are cropped, and
bicubically, noise that erases changes from frame to frame, and evaluation averages the probabilities of
5x3 views, not their logits as here. A later script sees two clips of each video:
augment.repeats=2, batch_size=768, optimizer.learning_rate=7.5e-4, end_learning_rate=1.5e-6, num_epochs=75,
warmup_fraction=5/75. Layer-wise decay is BEiT's (arXiv 2106.08254). Clips of 32 frames and the class
token are ViViT's, so that its checkpoints fit. Without init_from, train with
configs/vivit/kinetics400.py instead. Nobody has run this at full size;
configs/vivit/finetune_moving_digits.py is the same in small.
"""

from ml_collections import ConfigDict

from vjax import recipes
from vjax.config import parse_arg
from vjax.models import variants


def get_config(arg: str | None = None) -> ConfigDict:
    """The config; see the module for `arg`."""
    args = parse_arg(
        arg, variant='B/16x2', attention='factorised_encoder', layer_decay=0.75, tiny=False
    )
    pooled = args.attention in ('factorised_self_attention', 'factorised_dot_product')
    config = recipes.published(
        'kinetics400', epochs=100, learning_rate=2e-3, batch_size=512, warmup_epochs=5.0
    )
    config.augment.update(scale_jitter=(1.0, 1.0), random_crop=False, area=(0.08, 1.0))
    config.augment.update(aspect=(3 / 4, 4 / 3), flip=0.5, erase=0.25)
    # timm's rand-m7-n4-mstd0.5-inc1.
    config.augment.update(
        rand_augment=4,
        rand_augment_magnitude=7.0,
        rand_augment_std=0.5,
        rand_augment_probability=0.5,
        rand_augment_ops='increasing',
    )
    config.loss.update(label_smoothing=0.1, mixup=0.8, cutmix=1.0)
    config.model = recipes.model(
        'vivit',
        attention=args.attention,
        **variants.video(args.variant),
        temporal_depth=24 if args.variant.startswith('L/') else 4,
        classifier='gap' if pooled else 'token',
        tubelet_init='central_frame',
        stochastic_depth=0.1,
    )
    if args.tiny:
        recipes.tiny(config, width=16, depth=2, num_heads=2, mlp_dim=32, temporal_depth=1)
    config.optimizer.update(
        name='adamw',
        b1=0.9,
        b2=0.999,
        clip_norm=0.0,
        end_learning_rate=2e-6,
        weight_decay=(('.*/kernel', 0.05), ('.*', 0.0)),
        learning_rate_scale=recipes.layer_decay(args.layer_decay, config.model),
    )
    return config
