"""ViViT on Kinetics-400: the recipes of Arnab et al. (ICCV 2021), appendix, Tab. 7.

Arguments:
    variant: the paper's notation; B/16x2 and L/16x2 are the published ones.
    attention: spacetime (Model 1), factorised_encoder (2), factorised_self_attention (3),
        factorised_dot_product (4), or average_pool (the baseline of Tab. 2).
    tiny: a small model on small clips for two steps, to try the recipe anywhere.

Learning rates are those of the published configs where there is one: 0.05 for the factorised
encoder at size B, 0.1 otherwise. L/16x2 with the factorised encoder has 24 temporal layers: the
paper's text says 4, but its 995.3 GFLOPs and the published config are those of 24. The paper starts
from an image ViT trained on ImageNet-21k; from scratch, expect less.
"""

from ml_collections import ConfigDict, config_dict

from vjax.config import parse_arg
from vjax.models import variants


def get_config(arg: str | None = None) -> ConfigDict:
    """The config; see the module for `arg`."""
    args = parse_arg(arg, variant='B/16x2', attention='factorised_encoder', tiny=False)
    factorised_encoder = args.attention == 'factorised_encoder'
    pooled = args.attention in ('factorised_self_attention', 'factorised_dot_product')
    config = ConfigDict(
        dict(
            seed=0,
            num_steps=config_dict.placeholder(int),
            num_epochs=30.0,
            batch_size=64,
            accumulate=1,
            ema=0.0,
            init_from='',
            log_every=100,
            dataset=dict(
                path='data/kinetics400',
                num_classes=400,
                train='train',
                validation='validation',
                test='test',
            ),
            clip=dict(
                num_frames=32,
                stride=2,
                fps=config_dict.placeholder(float),
                short_side=256,
                size=224,
                short_clips='loop',
                order='forward',
            ),
            augment=dict(
                scale_jitter=(0.9, 1.33),
                random_crop=True,
                flip=0.5,
                color_jitter=0.8,
                color_drop=0.1,
            ),
            model=dict(
                name='vivit',
                attention=args.attention,
                num_classes=config_dict.placeholder(int),
                **variants.video(args.variant),
                temporal_depth=24 if args.variant.startswith('L/') else 4,
                classifier='gap' if pooled else 'token',
                tubelet_init='central_frame',
                dropout=0.0,
                attention_dropout=0.0,
                stochastic_depth=0.0,
                remat='none',
                dtype='float32',
            ),
            loss=dict(label_smoothing=0.0, mixup=0.0),
            optimizer=dict(
                name='sgd',
                learning_rate=0.05 if factorised_encoder and args.variant == 'B/16x2' else 0.1,
                warmup_fraction=2.5 / 30,  # 2.5 epochs.
                momentum=0.9,
                b1=0.9,
                b2=0.999,
                clip_norm=1.0,
                weight_decay=(('.*', 0.0),),
                learning_rate_scale=(('.*', 1.0),),
                freeze=(),
            ),
            sharding=dict(mesh=dict(data=-1), parameters=(('.*', ()),)),
            eval=dict(every=3356, views='1x1', batch_size=64),  # An epoch of Kinetics-400.
            checkpoint=dict(every=3356, keep_last=2, keep_best=1),
        )
    )
    if args.tiny:
        config.num_steps = 2
        config.batch_size = 8
        config.log_every = 1
        config.clip.update(dict(num_frames=4, short_side=40, size=32))
        config.model.update(dict(width=16, depth=2, num_heads=2, mlp_dim=32, temporal_depth=1))
        config.eval.update(dict(every=2, batch_size=8))
        config.checkpoint.every = 2
    return config
