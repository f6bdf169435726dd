"""Your own images, in a folder for each class: a residual network of 0.7 million parameters.

python -m resnet_flax.main --config=configs/folder.py --config.data.dir=photos        (photos/cat, photos/dog, ...)
python -m resnet_flax.main --config=configs/folder.py:full --config.data.dir=photos   (trains on all, the last epoch)

Where there are photos/train, photos/validation (or val) and photos/test they are the splits. What is not there is taken
from the training images, a tenth of each class. Images become 32 x 32, as --config.data.image_size says. The mean and
deviation that they are normalised by are those of the training images.
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
