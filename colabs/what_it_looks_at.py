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
# # What it looks at
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/vjax/vjax/blob/main/colabs/what_it_looks_at.ipynb)
#
# You will see where four small models look in the same video: attention rollout, the maps of
# learned tokens, the tokens that a compressed grid gathers from, and two views of a clip.

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
import csv
import json
import pathlib
import tempfile

from IPython.display import Video

from vjax import cli
from vjax.data import moving_digits
from vjax.look import look_at
from vjax.prepare import prepare
from vjax.train import train

folder = pathlib.Path(tempfile.mkdtemp())

# %% [markdown]
# ## Four models
#
# Videos of digits that move over photographs ([`quickstart`](quickstart.ipynb) says more), and a
# model of each family, trained for seconds. They need not be perfect to look somewhere.

# %%
moving_digits.generate(folder / 'videos', num_train=480, num_validation=0, num_test=12)
for split in ('train', 'test'):
    prepare(
        folder / 'videos', folder / f'videos/{split}.csv', folder / 'dataset', split, short_side=48
    )
CONFIGS = {
    'ViViT': 'vivit/moving_digits.py',
    'TokenLearner': 'token_learner/moving_digits.py:tokens=4',
    'LookupViT': 'lookupvit/moving_digits.py:grids=',
    'MTV': 'mtv/moving_digits.py',
}
for family, name in CONFIGS.items():
    config = cli.load_config(
        f'../configs/{name}',
        [
            f'--config.dataset.path={folder / "dataset"}',
            '--config.num_steps=100',
            '--config.eval.every=0',
        ],
    )
    train(config, folder / family)
    last = json.loads((folder / family / 'metrics.jsonl').read_text().splitlines()[-1])
    print(f'{family:13} top-1 of training clips in the end: {last["train/top1"]:.0%}')

# %% [markdown]
# One test video, which none of them has seen. In a shell, `python -m vjax.look --workdir=...
# some_video.mp4 --out=looks` writes the same film of any run and any video. The scale of each map
# goes from zero, which stays grey, to its largest weight in the clip.

# %%
row = next(csv.DictReader((folder / 'videos/test.csv').open()))
file = folder / 'videos' / row['path']
films = {}
for family in CONFIGS:
    (seen,) = look_at(folder / family, [file], folder / f'looks/{family}')
    films[family] = Video(seen['out'], embed=True, html_attributes='controls loop autoplay muted')
    print(f'{family:13} says {seen["top"][0]["label"]}; it is {row["label"]}')

# %% [markdown]
# ## Attention rollout
#
# Attention weights of a layer say how tokens were mixed there. Rollout ([arXiv
# 2005.00928](https://arxiv.org/abs/2005.00928)) multiplies them through all layers, counting each
# token itself as half, and so says how much of each tubelet arrives at the classifier. Here it goes
# from the classifier through the temporal encoder to the frames, and through the spatial encoder to
# the tubelets of each.

# %%
films['ViViT']

# %% [markdown]
# ## Learned tokens
#
# In the middle of the network TokenLearner replaces the tokens of each frame by four. Each is a sum
# over the frame with weights between 0 and 1 that depend on the frame: its map. A map need not lie
# on the digit: one that leaves out the digit and takes all around it says as well where it is.

# %%
films['TokenLearner']

# %% [markdown]
# ## A compressed grid that gathers
#
# LookupViT computes on 3 x 3 compressed tokens for each frame, which gather from its 6 x 6 tokens
# in every layer. `gather` is where they gather from, the mean over layers, heads and compressed
# tokens.

# %%
films['LookupViT']

# %% [markdown]
# ## Views
#
# MTV looks at the clip in tubelets of four frames and in tubelets of two, by two transformers of
# which one is smaller. `view_0` has the long tubelets: its map changes every four frames of the
# clip, that of `view_1` every two.

# %%
films['MTV']

# %% [markdown]
# ## What maps do not say
#
# A map shows where weights are, which need not be what the answer depends on. To know that, change
# the video and predict again: hide a part of it, show it backwards (`python -m vjax.evaluate
# --order=reversed`), or repeat one of its frames (`--order=still`).
#
# As arrays, maps come from `vjax.models.maps.look(model, params, video)`, whose module says what
# each of them is.
