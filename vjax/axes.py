"""Names of the axes of a mesh of devices: what models, data and training split arrays over."""

BATCH_AXES = ('data', 'fsdp')  # The clips of a batch.
TIME_AXIS = 'time'  # The frames of a clip.
TENSOR_AXIS = 'tensor'  # The heads of attention, the hidden units of an MLP.
AXES = (*BATCH_AXES, TIME_AXIS, TENSOR_AXIS)
