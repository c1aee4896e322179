# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The four families side by side
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/vjax/vjax/blob/main/colabs/architectures.ipynb)
#
# You will see what ViViT, TokenLearner, MTV and LookupViT make of the same clip: how many tokens
# they work on, what that costs, and the arrays in between.

# %%
# In a clone that is installed (`make install`) this fetches nothing; in Colab it fetches vjax.
import os

os.environ.update(TF_CPP_MIN_LOG_LEVEL='2', TF_ENABLE_ONEDNN_OPTS='0')  # Only errors are news.
if not os.path.isdir('../configs'):
    # !git clone --quiet --depth=1 https://github.com/vjax/vjax
    # %pip install --quiet ./vjax
    os.chdir('vjax/colabs')
# %matplotlib inline

# %%
import jax
import jax.numpy as jnp

from vjax import cli, models, visualize
from vjax.describe import describe

# %% [markdown]
# ## What they cost
#
# Every family has configs for Kinetics-400, and `describe` counts what the model of a config costs:
# nothing is allocated, so it takes a laptop as well. In a shell, with the parameters of each part:
#
#     python -m vjax.describe --config=configs/vivit/kinetics400.py:variant=B/16x2
#
# GFLOPs are the papers': multiply-adds of the forward pass of one view of 32 x 224 x 224 pixels.
# Tokens are those of the tubelets; what becomes of them is the difference between the families.

# %%
CONFIGS = {
    'ViViT': {
        'B, joint': 'vivit/kinetics400.py:variant=B/16x2,attention=spacetime',
        'B': 'vivit/kinetics400.py:variant=B/16x2',
        'L': 'vivit/kinetics400.py:variant=L/16x2',
    },
    'TokenLearner': {
        'B': 'token_learner/kinetics400.py:variant=B/16x2,location=6',
        'L': 'token_learner/kinetics400.py:variant=L/16x2,location=12',
    },
    'MTV': {
        'B': 'mtv/kinetics400.py:variant=B/2+S/4+Ti/8',
        'L': 'mtv/kinetics400.py:variant=L/2+B/4+S/8+Ti/16',
    },
    'LookupViT': {
        '3x3': 'lookupvit/kinetics400.py:variant=B/16x2,grid=3x3',
        '7x7': 'lookupvit/kinetics400.py:variant=B/16x2,grid=7x7',
    },
}
points = {}
print(f'{"":60}{"tokens":>7}{"parameters":>14}{"GFLOPs":>9}')
for family, configs in CONFIGS.items():
    points[family] = []
    for label, config in configs.items():
        costs = describe(cli.load_config(f'../configs/{config}', []))
        gflops, params = costs['gflops_per_view'], costs['params']
        print(f'{config:60}{costs["tokens"]:>7,}{params:>14,}{gflops:>9,.1f}')
        points[family].append((gflops, params / 1e6, label))

# %%
visualize.accuracy_against_cost(points, cost='GFLOPs per view', accuracy='parameters, millions')

# %% [markdown]
# - **ViViT** ([arXiv 2103.15691](https://arxiv.org/abs/2103.15691)). With joint attention every
#   tubelet attends to every other one of the clip. The factorised encoder has a transformer for the
#   tubelets of each frame and another for the frames, which costs fewer operations and more
#   parameters.
# - **TokenLearner** ([arXiv 2106.11297](https://arxiv.org/abs/2106.11297)). In the middle of the
#   network, the tokens of a frame are summed up into a few, with weights that it learned.
# - **MTV** ([arXiv 2201.04288](https://arxiv.org/abs/2201.04288)). Several transformers see the
#   same clip in tubelets of different lengths, large ones the short tubelets, and exchange what
#   they found.
# - **LookupViT** ([arXiv 2407.12753](https://arxiv.org/abs/2407.12753)). The heavy work is done on
#   a small grid of compressed tokens, which read from all tokens and write back to them in every
#   layer.

# %% [markdown]
# ## A forward pass
#
# A model is a Flax module with plain fields: `models.build(**config.model)`. Here are the four
# small ones of the moving digits, with random weights, on the same clip of 8 frames of 48 x 48
# pixels. Values of clips are in [-1, 1], and logits are float32.

# %%
video = jnp.clip(jax.random.normal(jax.random.key(0), (1, 8, 48, 48, 3)), -1, 1)
built = {}
for name in ('vivit', 'token_learner', 'mtv', 'lookupvit'):
    config = cli.load_config(f'../configs/{name}/moving_digits.py', [])
    model = models.build(**{**config.model, 'num_classes': 6})
    params = jax.jit(model.init)(jax.random.key(1), video)['params']
    logits = model.apply({'params': params}, video)
    features = model.apply({'params': params}, video, features=True)
    built[name] = model, params
    print(f'{name:14} logits {logits.shape}, final tokens {features.shape}')

# %% [markdown]
# ## In between
#
# Models keep what is of interest about a pass (`sow`) for whoever asks for the collection
# `intermediates`, and it costs nothing otherwise. Layers of equal shape are one scanned loop: their
# arrays have the layers as the first axis. Attention weights are [layers, batch, heads, queries,
# keys], where the batch of a factorised encoder is all frames of all clips.

# %%
for name, (model, params) in built.items():
    _, state = model.apply({'params': params}, video, mutable='intermediates')
    print(name)
    for path, array in jax.tree_util.tree_leaves_with_path(state['intermediates']):
        print(f'  {jax.tree_util.keystr(path, simple=True, separator="/"):64}{array.shape}')

# %% [markdown]
# `vjax.models.maps.look` turns them into maps over the clip;
# [`what_it_looks_at`](what_it_looks_at.ipynb) shows those of trained models. Parameters and GFLOPs
# of all published variants, beside the papers' figures, are in
# [`experiments/paper_costs`](../experiments/paper_costs/table.md).
