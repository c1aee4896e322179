"""What configs have in common: every key with nothing switched on, and the video papers' recipe.

A config file starts from one of these and says what is its own. All values can be read where they
end up: `python -m vjax.describe --config=FILE.py --json` prints the whole config.
"""

from typing import Any

from ml_collections import ConfigDict, config_dict

from vjax.errors import UserError
from vjax.models import variants

# Number of classes, and of training videos in the published configs; those for Kinetics-700 leave it
# open, and this is about what it has.
DATASETS = {
    'imagenet': (1000, 1_281_167),
    'kinetics400': (400, 214_834),
    'kinetics600': (600, 363_213),
    'kinetics700': (700, 545_000),
    'something_something_v2': (174, 168_913),
    'epic_kitchens': (397, 67_217),  # 300 nouns and 97 verbs.
    'moments_in_time': (339, 791_297),
}


def base() -> ConfigDict:
    """Every key of a config but the model's: nothing is augmented, decayed, frozen or sharded."""
    return ConfigDict(
        dict(
            seed=0,
            num_steps=config_dict.placeholder(int),
            num_epochs=config_dict.placeholder(float),
            batch_size=64,
            accumulate=1,
            ema=0.0,
            init_from='',
            adapt=dict(
                head='auto',
                class_token=True,
                tubelet='central_frame',
                temporal='paper',
                position_grid=(),
                allow=(),
            ),
            log_every=100,
            profile='',
            dataset=dict(
                path='', num_classes=1, train='train', validation='validation', test='test'
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
                scale_jitter=(1.0, 1.0),
                random_crop=False,
                area=(),
                aspect=(3 / 4, 4 / 3),
                repeats=1,
                flip=0.0,
                flip_labels='ignore',
                auto_augment='',
                rand_augment=0,
                rand_augment_magnitude=10.0,
                rand_augment_std=0.0,
                rand_augment_probability=1.0,
                rand_augment_ops='all',
                color_jitter=0.0,
                color_drop=0.0,
                erase=0.0,
            ),
            vary=dict(),
            loss=dict(name='softmax', label_smoothing=0.0, mixup=0.0, cutmix=0.0),
            optimizer=dict(
                name='sgd',
                learning_rate=0.1,
                warmup_fraction=0.0,
                decay='cosine',
                end_learning_rate=0.0,
                momentum=0.9,
                b1=0.9,
                b2=0.999,
                moment_dtype='float32',
                clip_norm=1.0,
                weight_decay=(('.*', 0.0),),
                learning_rate_scale=(('.*', 1.0),),
                freeze=(),
            ),
            sharding=dict(
                mesh=dict(data=-1, fsdp=1, time=1, tensor=1), preset='replicated', parameters=()
            ),
            eval=dict(every=1000, views='1x1', batch_size=64),
            checkpoint=dict(every=1000, minutes=30.0, keep_last=2, keep_best=1),
        )
    )


def model(name: str, **fields: Any) -> ConfigDict:
    """`config.model` of a transformer: its own fields, and what all have, switched off."""
    common = dict(
        num_classes=config_dict.placeholder(int),  # From the data set.
        dropout=0.0,
        attention_dropout=0.0,
        stochastic_depth=0.0,
        positions='learned',
        position_grid=(),
        remat='dots',
        unroll=False,
        dtype='float32',
        gelu='tanh',
        norm_epsilon=1e-6,
    )
    return ConfigDict(dict(name=name) | common | fields)


def probe(encoder: ConfigDict, **fields: Any) -> ConfigDict:
    """`config.model` of an attentive probe of `encoder`, another `config.model`.

    Four blocks (arXiv 2506.09985), which need `num_heads` and `mlp_dim`. The encoder has no classes.
    """
    own = dict(depth=4, head_bias=0.0, encoder=encoder.copy_and_resolve_references())
    config = model('probe', **own | fields)
    for name in ('positions', 'position_grid'):  # Those of the encoder's tokens are in them.
        del config[name]
    del config.encoder.num_classes
    return config


def layer_decay(decay: float, model: ConfigDict) -> tuple[tuple[str, Any], ...]:
    """Rules for `config.optimizer.learning_rate_scale`: every layer `decay` times the one above it.

    As in BEiT (arXiv 2106.08254), after ELECTRA (arXiv 2003.10555): the classifier has 1, the last of
    L blocks `decay`, the first `decay ** L`, and below it the embedding, with class tokens and position
    embeddings, `decay ** (L + 1)`. The temporal encoder of a factorised one continues the count of the
    spatial one. A norm or pooling after blocks goes with what comes next.

    Args:
        decay: 0.75 is common; 1 changes nothing.
        model: `config.model` of a ViT, ViViT or VideoPrism, whose depth no longer changes.
    """
    if model.name not in ('vit', 'vivit', 'videoprism'):
        raise UserError(
            f"layer_decay knows the layers of 'vit', 'vivit' and 'videoprism', not of '{model.name}'."
        )
    names, depths = ['encoder'], [model.depth]
    if model.name == 'videoprism':
        names, depths = ['spatial_encoder', 'temporal_encoder'], [model.depth, model.temporal_depth]
        if model.auxiliary_depth:
            names, depths = [*names, 'auxiliary_encoder'], [*depths, model.auxiliary_depth]
    if model.name == 'vivit' and model.attention in ('factorised_encoder', 'average_pool'):
        names = ['spatial_encoder']
        if model.attention == 'factorised_encoder':
            names, depths = [*names, 'temporal_encoder'], [*depths, model.temporal_depth]
    total = sum(depths)
    rules = [('embedding/.*|.*/class_token|.*/position_embedding/.*', decay ** (total + 1))]
    above = total
    for name, depth in zip(names, depths, strict=True):
        factors = tuple(decay ** (above - i) for i in range(depth))
        above -= depth
        rules.append((f'{name}/blocks/.*', factors))
        if above:
            rules.append((f'{name}/.*', decay**above))
    return (*rules, ('.*', 1.0))


def mtv(variant: str, **fields: Any) -> ConfigDict:
    """`config.model` of an MTV at a published size, such as 'B/2+S/4+Ti/8'.

    Views attend to each other in the middle and in the last layer of the deepest of them: layers 5
    and 11 of B, 11 and 23 of L.
    """
    views = variants.views(variant)
    depth = max(views['depths'])
    own = dict(
        fusion='cross_view_attention',
        fusion_layers=(depth // 2 - 1, depth - 1),
        cross_view_width='query',
        global_depth=12,
        global_num_heads=8,
        global_mlp_dim=3072,
        classifier='token',
        tubelet_init='central_frame',
    )
    return model('mtv', **views | own | fields)


def lookupvivit(
    variant: str, attention: str, grid: tuple[int, ...], num_frames: int, **fields: Any
) -> ConfigDict:
    """`config.model` of a LookupViViT at the size 'B/16x2' or the like, for clips of `num_frames`."""
    size = variants.video(variant)
    if attention == 'spacetime' and len(grid) == 2:
        grid = (num_frames // size['tubelet'][0], *grid)
    own = dict(
        attention=attention,
        grid=grid,
        temporal_depth=4,
        classifier='gap',
        tubelet_init='central_frame',
    )
    return model('lookupvivit', **size | own | fields)


def published(
    dataset: str,
    *,
    epochs: int,
    learning_rate: float,
    batch_size: int = 64,
    warmup_epochs: float = 2.5,
) -> ConfigDict:
    """What the papers' recipes on `dataset` share (ViViT, appendix, Tab. 7; MTV's are alike).

    SGD with momentum and no weight decay, a warm-up of 2.5 epochs, half a cosine, gradients clipped
    to norm 1; scale jitter, random crops and flips; an evaluation and a checkpoint each epoch.
    Colour jitter, and everything else, is switched on by the config.
    """
    num_classes, num_train = DATASETS[dataset]
    config = base()
    config.num_epochs = float(epochs)
    config.batch_size = batch_size
    config.dataset.update(path=f'data/{dataset}', num_classes=num_classes)
    config.augment.update(scale_jitter=(0.9, 1.33), random_crop=True, flip=0.5)
    config.optimizer.update(learning_rate=learning_rate, warmup_fraction=warmup_epochs / epochs)
    config.eval.every = config.checkpoint.every = num_train // batch_size
    return config


def moving_digits(order: str = 'forward') -> ConfigDict:
    """A few minutes of AdamW on the embedded data set, on a laptop.

    `order='still'` shows one frame of each clip, repeated: what can be told without motion.
    """
    config = base()
    config.update(num_steps=500, batch_size=32, log_every=20)
    config.dataset.update(path='runs/demo/dataset', num_classes=6)
    config.clip.update(num_frames=8, stride=2, short_side=48, size=48, order=order)
    config.optimizer.update(
        name='adamw',
        learning_rate=2e-3,
        warmup_fraction=0.1,
        weight_decay=(('.*/kernel', 0.05), ('.*', 0.0)),
    )
    config.eval.update(every=100, batch_size=32)
    config.checkpoint.every = 100
    return config


def tiny(config: ConfigDict, **fields: Any) -> ConfigDict:
    """The same recipe for two steps with a model of the given fields, to try it anywhere.

    Clips are at most 4 frames of 32 pixels; the number of frames stays where it is 1.
    """
    config.update(num_steps=2, batch_size=8, log_every=1)
    num_frames = min(config.clip.num_frames, 4)
    config.clip.update(num_frames=num_frames, stride=1, short_side=40, size=32)
    config.eval.update(every=2, batch_size=8)
    config.checkpoint.every = 2
    config.model.update(fields)
    return config


def tiny_views(config: ConfigDict) -> ConfigDict:
    """`tiny` for an MTV: as many views, narrow and two layers deep."""
    num_views = len(config.model.widths)
    return tiny(
        config,
        widths=(16,) * num_views,
        depths=(2,) * num_views,
        num_heads=(2,) * num_views,
        mlp_dims=(32,) * num_views,
        tubelets=((4, 16, 16),) + ((2, 16, 16),) * (num_views - 1),
        fusion_layers=(1,),
        global_depth=1,
        global_num_heads=2,
        global_mlp_dim=32,
    )


def tiny_grids(config: ConfigDict) -> ConfigDict:
    """`tiny` for a LookupViViT: small compressed grids of the same rank."""
    rank = len(config.model.grid)
    if config.vary:
        config.vary.grid = ((1, 1, 1)[-rank:], (2, 2, 2)[-rank:])
    sizes = dict(width=16, depth=2, num_heads=2, mlp_dim=32, temporal_depth=1)
    return tiny(config, **sizes, grid=(1, 2, 1)[-rank:])
