"""Report 002: pre-activation ResNet-18 at half width, 2,796,202 parameters.

python -m resnet_flax.main --config=configs/preact.py              (Adam and GELU, the report's best)
python -m resnet_flax.main --config=configs/preact.py:sgd,relu     (adam, sgd or adagrad; gelu or relu)
python -m resnet_flax.main --config=configs/preact.py:full         (all 50,000, the last epoch)

The report: Adam 90.76 % (GELU) and 90.23 % (ReLU), SGD 88.56 % and 88.32 %, with 40,000 training images, batch 32 and
early stopping within 100 epochs. Where it is silent:
- Learning rates. Adam 0.001 and AdaGrad 0.01 are PyTorch's defaults, most likely where no rate is stated; SGD has none
  that trains well, and 0.01 with momentum 0.9 is usual at batch 32.
- Early stopping: after 10 epochs without a better validation accuracy.
- BatchNorm after the last block: the paper (He et al., 2016) has one, the common CIFAR code that the report built on
  has not, so neither has the default. `--config.model.final_norm` adds it: 2,796,714 parameters.
"""

from resnet_flax.config import recipe

LEARNING_RATES = {"adam": 1e-3, "sgd": 1e-2, "adagrad": 1e-2}


def get_config(arg: str = ""):
    config, (optimizer, activation) = recipe("preact", arg, tuple(LEARNING_RATES), ("gelu", "relu"))
    if config.data.validation is None:
        config.data.train, config.data.validation = "train[:80%]", "train[80%:]"
        config.train.patience = 10
    config.data.policy = "crop(4)|flip|normalize(cifar10)"
    config.model.activation = activation
    config.optimizer.name = optimizer
    config.optimizer.learning_rate = LEARNING_RATES[optimizer]
    config.optimizer.eps = 1e-10 if optimizer == "adagrad" else 1e-8  # PyTorch's
    config.train.epochs = 100
    config.train.batch_size = 32
    return config
