"""The net as arrays says what the trained net says, and answering needs no torch."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from deepseek_forecaster.models import lstm_training
from deepseek_forecaster.models.net import CHANNELS, Net


def inputs(rows: int, columns: int, scale: float) -> list[np.ndarray]:
    random = np.random.default_rng(5)
    shapes = [(rows, 16, 1), (rows, 21, CHANNELS), (rows, columns)]
    return [(scale * random.normal(size=shape)).astype(np.float32) for shape in shapes]


@pytest.mark.parametrize("scale", [0.1, 1.0, 100.0], ids=["quiet", "usual", "far beyond what training saw"])
def test_arrays_and_torch_agree_to_a_hundred_thousandth(scale: float) -> None:
    torch.manual_seed(1)
    trained = lstm_training.Net(37).eval()
    for weights in trained.parameters():
        torch.nn.init.normal_(weights, std=0.3)
    arrays = Net.restored({name: array.numpy() for name, array in trained.state_dict().items()}, 37)
    given = inputs(50, 37, scale)
    with torch.inference_mode():
        expected = trained(*(torch.from_numpy(one) for one in given)).numpy()
    np.testing.assert_allclose(arrays(*given), expected, rtol=1e-5, atol=1e-5 * max(1.0, scale))


def test_weights_of_another_net_are_refused_with_the_shapes_that_are_wanted() -> None:
    weights = {name: array.numpy() for name, array in lstm_training.Net(5).state_dict().items()}
    with pytest.raises(ValueError, match=r"the net needs arrays of the shapes .*'skip.weight': \(5, 6\)"):
        Net.restored(weights, 6)


def test_the_service_and_every_expert_are_there_without_torch_and_lightgbm() -> None:
    """Half a gigabyte that only the fitting process needs."""
    program = (
        "import sys, deepseek_forecaster.server; from deepseek_forecaster.models import *; "
        "[new_expert(name) for name in UNTRAINED + TRAINABLE]; print({'torch', 'lightgbm'} & set(sys.modules))"
    )
    program = program.replace("import *", "import TRAINABLE, UNTRAINED, new_expert")
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip() == "set()"
