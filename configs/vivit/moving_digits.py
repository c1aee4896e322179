"""A small ViViT on the embedded moving digits: minutes on a laptop.

Arguments: `attention` (spacetime, factorised_encoder, factorised_self_attention,
factorised_dot_product, average_pool), `order` (still: the single-frame baseline, which sees one frame
repeated), and `tiny` (two steps, for tests).
"""

from ml_collections import ConfigDict, config_dict

from vjax.config import parse_arg


def get_config(arg: str | None = None) -> ConfigDict:
    """The config; see the module for `arg`."""
    args = parse_arg(arg, attention='factorised_encoder', order='forward', tiny=False)
    pooled = args.attention in ('factorised_self_attention', 'factorised_dot_product')
    config = ConfigDict(
        dict(
            seed=0,
            num_steps=500,
            num_epochs=config_dict.placeholder(float),
            batch_size=32,
            accumulate=1,
            ema=0.0,
            init_from='',
            log_every=20,
            dataset=dict(
                path='runs/demo/dataset',
                num_classes=6,
                train='train',
                validation='validation',
                test='test',
            ),
            clip=dict(
                num_frames=8,
                stride=2,
                fps=config_dict.placeholder(float),
                short_side=48,
                size=48,
                short_clips='loop',
                order=args.order,
            ),
            # The class is a direction: no flips.
            augment=dict(
                scale_jitter=(1.0, 1.0),
                random_crop=False,
                flip=0.0,
                color_jitter=0.0,
                color_drop=0.0,
            ),
            model=dict(
                name='vivit',
                attention=args.attention,
                num_classes=config_dict.placeholder(int),
                tubelet=(2, 8, 8),
                width=64,
                depth=2,
                num_heads=4,
                mlp_dim=256,
                temporal_depth=2,
                classifier='gap' if pooled else 'token',
                dropout=0.0,
                attention_dropout=0.0,
                stochastic_depth=0.0,
                remat='none',
                dtype='float32',
            ),
            loss=dict(label_smoothing=0.0, mixup=0.0),
            optimizer=dict(
                name='adamw',
                learning_rate=2e-3,
                warmup_fraction=0.1,
                momentum=0.9,
                b1=0.9,
                b2=0.999,
                clip_norm=1.0,
                weight_decay=(('.*/kernel', 0.05), ('.*', 0.0)),
                learning_rate_scale=(('.*', 1.0),),
                freeze=(),
            ),
            sharding=dict(mesh=dict(data=-1), parameters=(('.*', ()),)),
            eval=dict(every=100, views='1x1', batch_size=32),
            checkpoint=dict(every=100, keep_last=2, keep_best=1),
        )
    )
    if args.tiny:
        config.num_steps = 2
        config.batch_size = 8
        config.log_every = 1
        config.model.update(dict(width=16, num_heads=2, mlp_dim=32))
    return config
