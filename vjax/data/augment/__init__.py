"""The device's half of the input: uint8 windows -> float clips, inside jit.

Every clip has one draw for all its frames, keyed by the example's place in the training stream, so a
batch is the same whatever the step it is cut into, the hosts or the devices. What is switched off in
the config's section `augment` leaves no trace in the compiled program.

    batch        the order of it all
    crop         the region of the window that is shown
    mirroring    what a flip does to labels
    policies     RandAugment and AutoAugment: what is drawn
    operations   RandAugment and AutoAugment: what is done to pixels
    colors       colour jitter
    erasing      random erasing
    mixing       mixup and cutmix
"""

from vjax.data.augment.batch import augment, normalise
from vjax.data.augment.mirroring import Mirror, find_mirror
from vjax.data.augment.mixing import mix

__all__ = ['Mirror', 'augment', 'find_mirror', 'mix', 'normalise']
