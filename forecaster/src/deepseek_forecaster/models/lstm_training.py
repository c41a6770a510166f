"""Training of the LSTM's net, with torch. Only the process that fits loads this file; answers are computed from the arrays alone (`net.py`)."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from .expert import PEAK_QUANTILES, Floats
from .net import CHANNELS, HIDDEN, Singles

BATCH = 256
LEARNING_RATE = 3e-3
DROPOUT = 0.3
NOISE = 0.1
AVERAGE_DECAY = 0.99
WEIGHT_DECAY = 1e-3
SEED = 20_250
QUANTILES = (0.5, *PEAK_QUANTILES)


class Net(nn.Module):
    """(batch, NEWEST, 1), (batch, BLOCKS + ahead, CHANNELS) and (batch, columns) → (batch, outputs), in spreads of the training targets."""

    def __init__(self, seen: int) -> None:
        super().__init__()
        self.steps = nn.LSTM(1, HIDDEN // 2, batch_first=True)
        self.blocks = nn.LSTM(CHANNELS, HIDDEN, batch_first=True)
        self.mix = nn.Linear(HIDDEN // 2 + HIDDEN + seen, 2 * HIDDEN)
        self.out = nn.Linear(2 * HIDDEN, len(QUANTILES))
        self.skip = nn.Linear(seen, len(QUANTILES))
        self.dropout = nn.Dropout(DROPOUT)
        for layer in (self.out, self.skip):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, newest: torch.Tensor, blocks: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        """The log-ratios to the present level of the mean's median and of the peak's quantiles, in spreads."""
        _, (short, _) = self.steps(newest)
        _, (long, _) = self.blocks(blocks)
        together = torch.cat((self.dropout(short[0]), self.dropout(long[0]), self.dropout(seen)), dim=1)
        mixed = self.dropout(nn.functional.silu(self.mix(together)))
        answer: torch.Tensor = self.out(mixed) + self.skip(seen)
        return answer


def train(newest: Singles, blocks: Singles, seen: Singles, wanted: Singles, load: Floats, updates: int) -> dict[str, Singles]:
    """Minimize the pinball losses of mean and peak, weighted by load; gives the running average of the nets, as arrays by name."""
    torch.set_num_threads(1)
    inputs = [torch.from_numpy(array) for array in (newest, blocks, seen)]
    targets = torch.from_numpy(wanted)
    # the mean's error counts by the load, the peak's quantiles are about how likely
    weight = torch.ones_like(targets)
    weight[:, 0] = torch.from_numpy(_single(load / load.mean()))
    levels = torch.tensor(QUANTILES, dtype=torch.float32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        net = Net(seen.shape[1])
        average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(AVERAGE_DECAY))  # type: ignore[no-untyped-call]
        optimizer = torch.optim.AdamW(net.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=updates)
        for _ in range(updates):
            rows = torch.randint(len(targets), (BATCH,))
            steps, series, side = (one[rows] for one in inputs)
            answer = net(
                steps + NOISE * torch.randn_like(steps),
                torch.cat((series[:, :, :4] + NOISE * torch.randn_like(series[:, :, :4]), series[:, :, 4:]), dim=2),
                side + NOISE * torch.randn_like(side),
            )
            short = targets[rows] - answer
            loss = (weight[rows] * torch.maximum(levels * short, (levels - 1.0) * short)).mean()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            average.update_parameters(net)
    return {name: array.numpy().copy() for name, array in average.module.state_dict().items()}


def _single(rows: Floats) -> Singles:
    return np.ascontiguousarray(rows, dtype=np.float32)
