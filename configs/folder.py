"""Your own images, in one folder per class: a residual network with 0.7 million parameters.

python -m resnet_flax.main --config=configs/folder.py --config.data.dir=photos        (photos/cat, photos/dog, ...)
python -m resnet_flax.main --config=configs/folder.py:full --config.data.dir=photos   (all of train, last epoch)

The splits are photos/train, photos/validation (or val, valid) and photos/test, if these exist; a missing one is taken
from the training images, a tenth of each class. Images are resized to 32 x 32 (--config.data.image_size) and normalised
with the mean and standard deviation of the training images.
"""

from resnet_flax.config import recipe


def get_config(arg: str = ""):
    config, _ = recipe("tiny", arg)
    config.data.name = "folder"
    config.data.policy = "crop(4)|flip|normalize(auto)"
    config.model.blocks = (2, 2, 2)
    config.model.widths = (32, 64, 128)
    config.optimizer.nesterov = True
    config.optimizer.weight_decay = 5e-4
    config.schedule.name = "onecycle"
    config.schedule.per = "step"
    config.train.epochs = 30
    config.train.batch_size = 32
    return config
