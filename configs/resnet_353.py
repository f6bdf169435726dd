"""Report 004: basic blocks 3-5-3 of 64/128/256 channels, 4,918,602 parameters.

python -m resnet_flax.main --config=configs/resnet_353.py          (trains on 45,000, selects the epoch on 5,000)
python -m resnet_flax.main --config=configs/resnet_353.py:full     (trains on all 50,000, as in the report; last epoch)
python -m resnet_flax.main --config=configs/resnet_353.py:fast     (10 epochs of Muon on all 50,000, last epoch)

The report: 91.8 % test accuracy in the text, 93.93 % in its published log, after 50 epochs of AdamW. The learning rate
is that of the log: 0.004, 0.006, 0.008, 0.01, 0.01 in the first epochs, then a cosine that would take 50 more to reach
1e-5, and so ends at 0.00025447. The augmentation is that of the published code.

This project: not yet measured.
"""

from resnet_flax.config import TRAININGS, fast, recipe


def get_config(arg: str = ""):
    config, (training,) = recipe("resnet_353", arg, TRAININGS)
    if training == "fast":
        return fast(config)
    config.data.policy = (
        "flip|crop(4)|color_jitter(0.2,0.2,0.2)|autoaugment|rotate(15)"
        "|normalize(0.4914,0.4822,0.4465,0.2471,0.2435,0.2616)"
    )
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
