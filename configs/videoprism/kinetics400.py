"""VideoPrism on Kinetics-400, from its published weights: a classifier on the encoder, or fine-tuning.

    python -m vjax.train --config=configs/videoprism/kinetics400.py --workdir=runs/videoprism \
        --config.init_from=videoprism:flax_base_f16r288_repeated.npz

Arguments:
    variant: B/18x1 or L/18x1, as published, or g/18x1.
    frozen: train only the attention pooling and the classifier.
    layer_decay: factor on the learning rate from a layer to the one below it.
    tiny: a small model on small clips for two steps, to try the recipe anywhere.

The model is the published one (google-deepmind/videoprism): 288 pixels in patches of 18, 16 frames for B
and 8 for L and g, four temporal layers. The position embeddings keep that grid whatever the clip, and are
resized in the model as in theirs. The classifier is that of transformers'
VideoPrismForVideoClassification, whose pooling is the contrastive model's; files of that model need
--config.model.auxiliary_depth=2.

No recipe for training the encoder was published, nor code for its classifiers: the paper's results are of
one frozen encoder. So what stands here is ours: AdamW as in configs/vivit/finetune_kinetics400.py, but
with a learning rate ten times smaller, 20 epochs, and no stochastic depth or mixup; with `frozen`, the
learning rate and the weight decay of configs/probe/kinetics400.py. Clips span 128 frames, about five
seconds; crops are of 288 pixels out of at least 288. Nobody has run this at full size.
"""

from ml_collections import ConfigDict

from vjax import recipes
from vjax.config import parse_arg
from vjax.models import variants


def get_config(arg: str | None = None) -> ConfigDict:
    """The config; see the module for `arg`."""
    args = parse_arg(arg, variant='B/18x1', frozen=False, layer_decay=0.75, tiny=False)
    config = recipes.published(
        'kinetics400', epochs=20, learning_rate=2e-4, batch_size=256, warmup_epochs=2.5
    )
    num_frames = 16 if args.variant.startswith('B/') else 8
    config.clip.update(num_frames=num_frames, stride=128 // num_frames, short_side=320, size=288)
    config.loss.update(label_smoothing=0.1)
    config.model = recipes.model(
        'videoprism',
        **variants.video(args.variant),
        temporal_depth=4,
        auxiliary_depth=0,
        logit_cap=50.0,
        classifier='map',
        position_grid=(num_frames, 16, 16),
        gelu='erf',
    )
    if args.tiny:
        sizes = dict(width=16, depth=2, num_heads=2, mlp_dim=64, temporal_depth=1)
        recipes.tiny(config, **sizes, tubelet=(1, 16, 16), position_grid=())
    config.optimizer.update(
        name='adamw',
        clip_norm=0.0,
        weight_decay=(('.*/kernel', 0.05), ('.*', 0.0)),
        learning_rate_scale=recipes.layer_decay(args.layer_decay, config.model),
    )
    if args.frozen:
        config.optimizer.update(
            learning_rate=1e-3,
            weight_decay=(('head/.*', 0.1), ('.*', 0.0)),
            learning_rate_scale=(('.*', 1.0),),
            freeze=('(embedding|(spatial|temporal|auxiliary)_encoder)/.*',),
        )
    return config
