"""Report 004: basic blocks 3-5-3 of 64/128/256 channels, 4,918,602 parameters.

python -m resnet_flax.main --config=configs/resnet_353.py          (45,000 to train, 5,000 to choose the epoch by)
python -m resnet_flax.main --config=configs/resnet_353.py:full     (all 50,000, the last epoch: the report's final run)

The report: 91.8 % test accuracy in the text, 93.93 % in its published log, after 50 epochs of AdamW. The learning rate
follows that log: 0.004, 0.006, 0.008, 0.01, 0.01 in the first epochs, then a cosine that would reach 1e-5 after 50
more and so ends at 0.00025447. Augmentation as in its published code.
"""

from resnet_flax.config import recipe


def get_config(arg: str = ""):
    config, _ = recipe("resnet_353", arg)
    config.data.policy = "flip|crop(4)|color_jitter(0.2,0.2,0.2)|autoaugment|rotate(15)|normalize(cifar10)"
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 0.01
    config.optimizer.weight_decay = 1e-3
    config.schedule.name = "warmup_cosine"
    config.schedule.warmup = 5
    config.schedule.warmup_offset = 2
    config.schedule.decay = 50
    config.schedule.end_factor = 1e-3
    config.train.epochs = 50
    config.train.batch_size = 128
    return config
