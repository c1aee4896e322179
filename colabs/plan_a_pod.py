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
# # Plan a pod
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/vjax/vjax/blob/main/colabs/plan_a_pod.ipynb)
#
# You will see how much memory a training step takes on each chip of a TPU slice and how long the
# compiler thinks that it takes, without a TPU.

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
import json

import jax
from matplotlib.figure import Figure

from vjax import cli, visualize
from vjax.errors import UserError
from vjax.plan import report
from vjax.planning import topology
from vjax.planning.estimate import plan

# %% [markdown]
# ## The published models on a slice
#
# `python -m experiments.pod_plan.run` compiled the training step of published configs for slices of
# TPUs, by their own compiler, and kept what it says. Nothing was run on a TPU: these are estimates.
# There are v5e:4x8, v5e:8x8, v5p:2x2x4, v5p:4x4x4, v6e:4x8 and v6e:8x8.

# %%
SLICE = 'v5e:4x8'
with open('../experiments/pod_plan/results.json') as file:
    plans = [result for result in json.load(file).values() if result['topology'] == SLICE]
plans = [result for result in plans if 'error' not in result]
print(
    f'{SLICE:48}{"batch":>6}{"remat":>7}{"GiB":>7}{"of":>4}{"step, ms":>10}{"clips/s":>9}{"MFU":>6}'
)
for result in plans:
    peak, capacity = (result['memory'][key] / 2**30 for key in ('peak', 'capacity'))
    speed = '  does not fit'
    if result['memory']['fits']:
        clips, mfu = result['clips_per_second'], result['mfu']
        speed = f'{1e3 * result["step_seconds"]:>10.0f}{clips:>9.0f}{mfu:>6.0%}'
    print(
        f'{result["config"]:48}{result["batch_size"]:>6}{result["remat"]:>7}{peak:>7.1f}{capacity:>4.0f}{speed}'
    )

# %% [markdown]
# What a chip's memory is for. The parameters and the optimiser's moments are split over 8 chips
# (`fsdp`); most of the rest, the temporaries, is what the forward pass keeps for the backward pass.
# `remat` keeps less and computes it again.

# %%
with visualize.styled():
    figure = Figure(figsize=(8, 1.2 + 0.35 * len(plans)))
    axis = figure.subplots()
    names = [result['config'] for result in plans]
    left = [0.0] * len(plans)
    parts = ('params', 'optimizer', 'ema', 'batch', 'temporaries')
    for part, colour in zip(parts, visualize.COLOURS, strict=False):
        width = [result['memory'][part] / 2**30 for result in plans]
        axis.barh(names, width, left=left, color=colour, edgecolor='white', label=part)
        left = [a + b for a, b in zip(left, width, strict=True)]
    capacities = [result['memory']['capacity'] / 2**30 for result in plans]
    axis.scatter(capacities, names, marker='|', s=300, color='black', label='the chip has')
    axis.invert_yaxis()
    axis.set(xlabel='GiB on each chip', xlim=(0, None))
    figure.legend(loc='outside lower center', ncols=6)
figure

# %% [markdown]
# ## Your own config
#
# `plan` compiles the training step of any config for a topology: `v5e:4x8`, `v5p:2x2x4`, `v6e:4x4`
# and others. It needs no TPU, but the compiler for TPUs, `pip install 'vjax[plan]'`. Where that is
# not installed, the step is compiled for the CPU instead, here pretending to be eight devices:
# memory is then what the CPU's compiler says, and nothing is said about time.

# %%
jax.config.update('jax_platforms', 'cpu')
jax.config.update('jax_num_cpu_devices', 8)
where = 'v5e:2x4'
try:
    topology.find(where)
except UserError as error:
    print(error)
    where = 'cpu'

# %%
CONFIG = '../configs/vivit/moving_digits.py'
BATCH = '--config.batch_size=64'
whole = plan(cli.load_config(CONFIG, [BATCH]), where)
print(report(whole))

# %% [markdown]
# Each device has all parameters and moments, and an eighth of the batch. With the preset `fsdp` it
# has an eighth of the parameters and moments, too, and gathers those of a layer when it needs them:

# %%
split = plan(
    cli.load_config(
        CONFIG, [BATCH, '--config.sharding.preset=fsdp', '--config.sharding.mesh.fsdp=8']
    ),
    where,
)
print(f'{"KiB on each device":22}{"replicated":>12}{"fsdp":>12}')
for part in ('params', 'optimizer', 'batch', 'temporaries', 'peak'):
    print(f'{part:22}{whole["memory"][part] / 1024:>12,.0f}{split["memory"][part] / 1024:>12,.0f}')
print('\nMiB between devices in a step')
for name, result in {'replicated': whole, 'fsdp': split}.items():
    sent = {kind: round(total['bytes'] / 2**20, 2) for kind, total in result['collectives'].items()}
    print(f'  {name:12}{sent}')

# %% [markdown]
# For a model of this size it is not worth it: what is saved is seven eighths of what the parameters
# and moments take, with AdamW twelve bytes for each parameter. The 607 million parameters of
# ViViT-L/16x2 would have 7.3 GB.
#
# In a shell, with the price of an epoch, and a search over batches, meshes and remat:
#
#     python -m vjax.plan --config=configs/vivit/kinetics400.py --topology=v5e:4x8 --dataset_size=214834 --price=1.2
#     python -m vjax.plan --config=configs/vivit/kinetics400.py --topology=v5e:4x8 --sweep
