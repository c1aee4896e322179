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
# # Quickstart: from video files to predictions
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/vjax/vjax/blob/main/colabs/quickstart.ipynb)
#
# You will see a few hundred mp4 files become a data set, a small ViViT learn from them on a CPU in
# about a minute, and its predictions for videos that it was not trained on.

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

import numpy as np
from IPython.display import Video

from vjax import cli, visualize
from vjax.data import clip_files, moving_digits, records, video
from vjax.evaluate import evaluate_run
from vjax.predict import predict
from vjax.prepare import prepare
from vjax.train import train

folder = pathlib.Path(tempfile.mkdtemp())

# %% [markdown]
# ## Videos
#
# vjax comes with a data set that it renders itself: handwritten digits that move over photographs.
# The class is the motion: left, right, up, down, grow or shrink. A single frame says nothing about
# it, so a model that answers well has seen motion.

# %%
moving_digits.generate(folder / 'videos', num_train=720, num_validation=0, num_test=96)
test_rows = list(csv.DictReader((folder / 'videos/test.csv').open()))
test_rows[:3]

# %%
first = {row['label']: folder / 'videos' / row['path'] for row in reversed(test_rows)}
first = dict(sorted(first.items()))
clips = {label: np.stack(list(video.decode(file).frames)) for label, file in first.items()}
visualize.strips(clips, num_frames=10)

# %% [markdown]
# ## Prepare
#
# `prepare` decodes every video once and stores its frames so that training can read any of them
# quickly. It takes a CSV of paths and labels, a folder for each class, or the annotations of a
# public data set. What cannot be decoded is named in `rejected.csv`.

# %%
for split in ('train', 'test'):
    prepare(
        folder / 'videos', folder / f'videos/{split}.csv', folder / 'dataset', split, short_side=48
    )
dataset = records.open_dataset(folder / 'dataset')
print('classes:', ', '.join(dataset.classes['label']))
print('videos: ', {name: split.num_videos for name, split in dataset.splits.items()})

# %% [markdown]
# ## Train
#
# An experiment is a Python file, and any of its values can be set from outside. This is ViViT's
# factorised encoder, with a width of 64 instead of 768. In a shell the same is
#
#     python -m vjax.train --config=configs/vivit/moving_digits.py --config.dataset.path=... --workdir=...

# %%
config = cli.load_config(
    '../configs/vivit/moving_digits.py',
    [
        f'--config.dataset.path={folder / "dataset"}',
        '--config.num_steps=150',
        '--config.log_every=30',
        '--config.eval.every=0',
    ],
)
config.model.to_dict()

# %%
train(config, folder / 'run')
for line in (folder / 'run/metrics.jsonl').read_text().splitlines():
    metrics = json.loads(line)
    print(
        'step {step:3}   loss {train/loss:.2f}   top-1 of training clips {train/top1:.0%}'.format(
            **metrics
        )
    )

# %% [markdown]
# ## Evaluate
#
# Every test video counts once; its logits are averaged over three views, clips from its beginning,
# middle and end. Then the same again with one frame of each clip, repeated: without motion the
# model can only guess, and one in six guesses is right.

# %%
scores = evaluate_run(folder / 'run', views='3x1', confusion=folder / 'confusion.csv')
still = evaluate_run(folder / 'run', views='3x1', order='still', out=folder / 'still.json')
print(f'top-1 of {scores["num_videos"]} test videos: {scores["top1"]:.1%}')
print(f'without motion: {still["top1"]:.1%}')

# %%
classes = dataset.classes['label']
counts = np.loadtxt(
    folder / 'confusion.csv', int, delimiter=',', skiprows=1, usecols=range(1, len(classes) + 1)
)
visualize.confusion_matrix(counts, classes)

# %% [markdown]
# ## Predict and watch
#
# `predict` takes any file that FFmpeg's libraries can decode, and gives the most likely classes
# with their probabilities.

# %%
results = list(predict(folder / 'run', first.values(), views='3x1', top=1))
watched = []
for label, result in zip(first, results, strict=True):
    best = result['top'][0]
    lines = [f'true: {label}', f'predicted: {best["label"]} {best["score"]:.0%}']
    watched.append(visualize.caption(visualize.enlarge(clips[label], 190), lines))
film = clip_files.mp4_bytes(visualize.grid(watched, columns=3, gap=6), fps=6, quality=24)
Video(film, embed=True, mimetype='video/mp4', html_attributes='controls loop autoplay muted')

# %% [markdown]
# ## Next
#
# - [`architectures`](architectures.ipynb): the four families of models, and what they cost.
# - [`what_it_looks_at`](what_it_looks_at.ipynb): attention over the video.
# - [`your_own_videos`](your_own_videos.ipynb): a folder of your videos instead of the rendered
#   ones.
# - [`plan_a_pod`](plan_a_pod.ipynb): memory and time of training on TPUs, before you have any.
