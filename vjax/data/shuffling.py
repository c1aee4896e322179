"""The order in which a training run sees the videos of a split."""

from etils import epy

with epy.lazy_imports():
    import tensorflow as tf

# Of what `video_of_turn` returns: a run that began with another one cannot go on exactly. In the first,
# seeds and epochs 256 apart had the same order, and of Kinetics-400 the videos of a batch of 64 met again
# in the next epochs 1,500 times as often as by chance.
VERSION = 2


def video_of_turn(turns: 'tf.Tensor', *, num_videos: int, seed: int) -> 'tf.Tensor':
    """Which video has each turn, where every epoch is all videos in an order of its own.

    A permutation of any size is asked for single places of it, and nothing is kept: a cipher of the places
    (`RandomIndexShuffle`: Simon, whose rounds are a Feistel network).

    Args:
        turns: int64 [turns], not negative, of neighbouring epochs: turn t is in epoch t // num_videos.
        num_videos: how many there are.
        seed: of the run, 0 <= seed < 2**32.

    Returns:
        int64 [turns], each from 0 to before `num_videos`.
    """
    epochs = turns // num_videos

    # The cipher takes but the low bits of each word of its key: of all the seed's and epoch's, therefore.
    def key(epoch):
        words = tf.stack([tf.constant(seed, tf.int64), epoch])
        return tf.random.stateless_uniform([3], words, None, None, tf.int64)

    first = tf.reduce_min(epochs)
    keys = tf.map_fn(key, tf.range(first, tf.reduce_max(epochs) + 1))
    # tf.random.experimental.index_shuffle wraps this op, but cannot take a batch of seeds. Its four rounds
    # leave much of one epoch's order in the next.
    return tf.raw_ops.RandomIndexShuffle(
        index=turns % num_videos,
        seed=tf.gather(keys, epochs - first),
        max_index=tf.constant(num_videos - 1, tf.int64),
        rounds=8,
    )
