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
# # Your own videos
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/vjax/vjax/blob/main/colabs/your_own_videos.ipynb)
#
# You will see a folder of videos, one folder for each class, become a data set; a model that was
# trained on other videos be fine-tuned on it; and what that is worth against training from nothing.

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
import shutil
import tempfile

from IPython.display import Video

from vjax import cli
from vjax.data import moving_digits, records
from vjax.evaluate import evaluate_run
from vjax.look import look_at
from vjax.predict import predict
from vjax.prepare import prepare
from vjax.train import train

folder = pathlib.Path(tempfile.mkdtemp())

# %% [markdown]
# ## The videos
#
# Put files that FFmpeg's libraries can read into folders named as their classes, within folders
# named as the splits:
#
#     my_videos/train/jump/1.mp4   my_videos/train/run/2.mp4   ...
#     my_videos/test/jump/8.mp4    my_videos/test/run/9.mp4    ...
#
# In Colab, upload a zip file of them by the folder symbol on the left and unpack it with `!unzip
# /content/my_videos.zip`. Then set `VIDEOS = 'my_videos'`. As long as it is `None`, ten rendered videos of
# each of six motions stand in.

# %%
VIDEOS = None

if VIDEOS is None:
    VIDEOS = folder / 'my_videos'
    moving_digits.generate(folder / 'rendered', num_train=60, num_validation=0, num_test=60)
    for split in ('train', 'test'):
        for row in csv.DictReader((folder / f'rendered/{split}.csv').open()):
            to = VIDEOS / split / row['label']
            to.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / 'rendered' / row['path'], to)

# %% [markdown]
# ## Prepare
#
# Frames are made smaller where their short side is longer than `short_side`; 48 pixels suit the
# small model of this notebook, 256 those of the papers. In a shell this is
#
#     python -m vjax.prepare --dataset=folders --videos=my_videos --out=data/mine --split=train

# %%
for split in ('train', 'test'):
    prepare(VIDEOS, '', folder / 'mine', split, dataset='folders', short_side=48)
mine = records.open_dataset(folder / 'mine')
print('classes:', ', '.join(mine.classes['label']))
print('videos: ', {name: split.num_videos for name, split in mine.splits.items()})

# %% [markdown]
# ## Weights to start from
#
# Published weights are the place to start from, and `config.init_from` reads them:
#
#     --config.init_from=vit:ViT-B_16.npz              image models of vision_transformer, AugReg
#     --config.init_from=scenic:vivit_b_fe/checkpoint  ViViT, MTV, TokenLearner of Scenic
#     --config.init_from=huggingface:vivit-b-16x2      a folder with config.json and safetensors
#     --config.init_from=runs/earlier                  a run of vjax
#
# They are hundreds of megabytes, and this notebook downloads nothing. So here the weights come from
# a run of a minute on another set of rendered videos, `order12`, whose twelve classes are two
# motions one after the other. What it has seen is close to the stand-in videos, closer than
# Kinetics will be to yours: take what follows for how it is done, not for what it will gain you.

# %%
moving_digits.generate(folder / 'others', 'order12', num_train=240, num_validation=0, num_test=0)
prepare(folder / 'others', folder / 'others/train.csv', folder / 'other', 'train', short_side=48)
always = ['--config.eval.every=0']
config = cli.load_config(
    '../configs/vivit/moving_digits.py',
    [*always, f'--config.dataset.path={folder / "other"}', '--config.num_steps=200'],
)
train(config, folder / 'weights')
last = json.loads((folder / 'weights/metrics.jsonl').read_text().splitlines()[-1])
print(f'top-1 of training clips in the end: {last["train/top1"]:.0%}')

# %% [markdown]
# ## Fine-tune
#
# The recipe of `configs/vivit/finetune_moving_digits.py` has lower learning rates for lower layers,
# label smoothing, mixup and stochastic depth. The encoder is loaded as it is. The classifier is
# not, because the classes are others. For comparison, as many steps from random weights.

# %%
overrides = [*always, f'--config.dataset.path={folder / "mine"}', '--config.num_steps=80']
config = cli.load_config(
    '../configs/vivit/finetune_moving_digits.py',
    [*overrides, f'--config.init_from={folder / "weights"}'],
)
train(config, folder / 'finetuned')
train(cli.load_config('../configs/vivit/moving_digits.py', overrides), folder / 'scratch')
for name in ('finetuned', 'scratch'):
    scores = evaluate_run(folder / name, views='3x1')
    print(f'{name:10} top-1 of {scores["num_videos"]} test videos: {scores["top1"]:.0%}')

# %% [markdown]
# ## Predict
#
# `predict` takes files as they are, of any size and length.

# %%
files = [min(path.glob('*')) for path in sorted((pathlib.Path(VIDEOS) / 'test').iterdir())]
for result in predict(folder / 'finetuned', files, views='3x1', top=3):
    named = ', '.join(f'{best["label"]} {best["score"]:.0%}' for best in result['top'])
    print(f'{pathlib.Path(result["path"]).parent.name:8} {named}')

# %% [markdown]
# One of them, with what the model looked at ([`what_it_looks_at`](what_it_looks_at.ipynb) says what
# that is):

# %%
(seen,) = look_at(folder / 'finetuned', files[:1], folder / 'looks')
Video(seen['out'], embed=True, html_attributes='controls loop autoplay muted')

# %% [markdown]
# ## At full size
#
#     python -m vjax.train --config=configs/vivit/finetune_kinetics400.py --workdir=runs/mine \
#         --config.init_from=scenic:vivit_b_fe/checkpoint --config.dataset.path=data/mine \
#         --config.num_steps=2000
#     python -m vjax.evaluate --workdir=runs/mine --views=4x3
#     python -m vjax.predict --workdir=runs/mine some_video.mp4
#
# That wants an accelerator: [`plan_a_pod`](plan_a_pod.ipynb) says how much memory, and `python -m
# vjax.describe` how many operations.
