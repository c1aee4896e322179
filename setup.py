"""Packaging of vjax. Versions are loose here and pinned together in constraints.txt."""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name='vjax',
    version='0.1.0',
    description='Video transformers in JAX: from mp4 files to trained, evaluated, usable models.',
    long_description=Path('README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    packages=find_packages(include=['vjax', 'vjax.*']),
    package_data={'vjax.reports': ['templates/*']},
    python_requires='>=3.11,<3.14',  # TensorFlow 2.21 has no wheel for 3.14.
    install_requires=[
        'absl-py',
        'array_record>=0.8',  # For `tfds.data_source`.
        'av>=15',
        'clu>=0.0.12',
        'dm-pix>=0.4.5',
        'einops>=0.8',
        'etils[epath,epy]>=1.10',
        'flax>=0.12',
        'fsspec>=2025.3',
        'google-crc32c>=1.5',
        'jax>=0.10',
        'jaxtyping>=0.3',
        'jinja2>=3.1',
        'markupsafe>=2.1',
        'matplotlib>=3.9',
        'ml_collections>=1.1',
        'ml_dtypes>=0.5',
        'numpy>=2',
        'optax>=0.2.8',
        'orbax-checkpoint>=0.12',
        'pillow>=11',
        'safetensors>=0.6',
        'simplejpeg>=1.8',  # libjpeg-turbo, as wheels.
        'scikit-learn>=1.5',  # The digits and photographs of the embedded data set.
        'tensorboard>=2.20',  # clu imports it without declaring it.
        'tensorflow-cpu>=2.20; platform_system == "Linux" and platform_machine == "x86_64"',
        'tensorflow>=2.20; platform_system != "Linux" or platform_machine != "x86_64"',
        'tensorflow-datasets>=4.9.9',
        'scipy>=1.14',
        'tqdm>=4.66',
        'typeguard>=4.4',
    ],
    extras_require={
        'test': ['beartype', 'hypothesis', 'jupytext', 'msgpack', 'pytest', 'pytest-xdist', 'ruff'],
        'parity': ['torch', 'transformers'],
        'gpu': ['jax[cuda13]'],
        'tpu': ['jax[tpu]'],
        'plan': ['jax[tpu]'],  # For the libtpu that this jax wants: the compiler; no TPU is needed.
        'colab': ['ipykernel', 'jupytext', 'nbconvert', 'nbmake', 'pytest'],
        'beam': ['apache-beam>=2.77'],
        'cloud': ['gcsfs', 's3fs'],
        # torchcodec: later ones want a CUDA library even on a CPU.
        'benchmark': [
            'decord',
            'grain',
            'scikit-video',
            'torch',
            'torchcodec==0.13.*',
        ],
    },
)
