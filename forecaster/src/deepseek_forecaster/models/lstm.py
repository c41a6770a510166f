"""A small LSTM that answers the whole horizon at once, trained on one series.

Everything it sees is a log-ratio to the present ten-minute level, so it works at any size of load. Its recurrence reads the last four hours in
ten-minute blocks and then the newest steps one by one, each beside what the day before had at that time; its head also sees, directly, how the
load went on from here on the days before. It starts as "the level stays" and learns what to add.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from .expert import Bools, Floats, History, Ints, NotEnoughHistoryError, State

HIDDEN = 32
BLOCKS = 24
NEWEST = 16
DAYS_BACK = (1, 2, 3, 7)
SEGMENTS = 12
"""The horizon is learned in at most this many pieces; within and between them the path is interpolated."""
WINDOWS = 6_000
BATCH = 128
UPDATES = 900
"""About 10 s on one core."""
LEARNING_RATE = 4e-3
DROPOUT = 0.2
NOISE = 0.1
AVERAGE_DECAY = 0.99
WEIGHT_DECAY = 1e-3
SEED = 20_250
LIMIT = 6.0
"""Inputs and outputs are kept within this many spreads of the training targets."""
CHUNK = 2_048


class Net(nn.Module):
    """(batch, BLOCKS + NEWEST, 4) and (batch, columns) → (batch, segments), all in spreads of the training targets."""

    def __init__(self, columns: int, segments: int) -> None:
        super().__init__()
        self.recurrence = nn.LSTM(4, HIDDEN, batch_first=True)
        self.mix = nn.Linear(HIDDEN + columns, 2 * HIDDEN)
        self.out = nn.Linear(2 * HIDDEN, segments)
        self.skip = nn.Linear(columns, segments)
        self.dropout = nn.Dropout(DROPOUT)
        for layer in (self.out, self.skip):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, sequence: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """The log-ratio of each segment's load to the present level, in spreads."""
        _, (hidden, _) = self.recurrence(sequence)
        together = torch.cat((self.dropout(hidden[0]), columns), dim=1)
        mixed = self.dropout(torch.nn.functional.silu(self.mix(together)))
        answer: torch.Tensor = self.out(mixed) + self.skip(columns)
        return answer


class Lstm:
    """The LSTM expert: 60 s at most to fit on one core, about 2 ms to answer."""

    name = "lstm"

    def __init__(self, updates: int = UPDATES) -> None:
        self._updates = updates
        self.steps = 0
        self.spread = 1.0
        self.lags: tuple[int, ...] = ()
        self.net: Net | None = None

    def minimum_history(self, day: float, steps: int) -> int:
        """What one window needs before and after it, and 150 windows."""
        return (BLOCKS + 1) * max(1, round(day / 144)) + steps + 150

    def fit(self, history: History, steps: int) -> None:
        """Train on up to 6,000 windows; the same history gives the same net. NotEnoughHistoryError below 150 windows."""
        torch.set_num_threads(1)
        first = self._reach(history)
        # a lag is learned from only where at least half of the windows can see it
        usable = len(history) - steps - first
        self.lags = tuple(days for days in DAYS_BACK if usable > 0 and round(days * history.day) - first < usable / 2)
        origins = np.arange(first, len(history) - steps, dtype=np.int64)
        known = np.isfinite(history.values)
        running = np.concatenate(([0], np.cumsum(known)))
        if len(origins):
            # at least half of the path and half of the last ten minutes must be known
            came = running[origins + 1 + steps] - running[origins + 1]
            seen = running[origins + 1] - running[np.maximum(origins + 1 - history.window, 0)]
            origins = origins[(2 * came >= steps) & (2 * seen >= history.window)]
        if len(origins) < 150:
            raise NotEnoughHistoryError(f"lstm needs at least {self.minimum_history(history.day, steps)} known steps, had {int(known.sum())}")
        origins = origins[np.linspace(0, len(origins) - 1, min(WINDOWS, len(origins))).round().astype(np.int64)]
        self.steps = steps
        targets, present = self._targets(history, origins)
        spread = float(np.std(targets[present]))
        self.spread = spread if spread > 1e-6 else 1.0
        sequence, columns = self._inputs(history, origins)
        wanted = torch.from_numpy(np.clip(targets / self.spread, -LIMIT, LIMIT).astype(np.float32))
        self.net = self._train(sequence, columns, wanted, torch.from_numpy(present.astype(np.float32)))

    def predict_many(self, history: History, origins: Ints, steps: int) -> Floats:
        """The path after each origin, shape (origins, steps): NaN where less than four hours lie before, flat beyond the learned horizon."""
        if self.net is None:
            raise ValueError("lstm must be fitted or restored before it is asked")
        path = np.full((len(origins), steps), np.nan)
        ready = np.flatnonzero(origins >= self._reach(history))
        learned = segment_edges(self.steps)
        centers = (learned[:-1] + learned[1:] - 1) / 2
        for start in range(0, len(ready), CHUNK):
            rows = ready[start : start + CHUNK]
            sequence, columns = self._inputs(history, origins[rows])
            with torch.inference_mode():
                answer = self.net(sequence, columns).numpy().astype(np.float64)
            moves = self.spread * np.clip(answer, -LIMIT, LIMIT)
            at = np.arange(steps)
            along = np.stack([np.interp(at, centers, row) for row in moves])
            path[rows] = np.maximum(np.exp(history.level[origins[rows]][:, None] + along) - history.floor, 0.0)
        return path

    def state(self) -> State:
        """The net's arrays, and what its inputs and outputs mean."""
        if self.net is None:
            raise ValueError("lstm must be fitted before its state is taken")
        weights = {f"net.{name}": tensor.numpy() for name, tensor in self.net.state_dict().items()}
        return weights | {"about": np.array([self.steps, self.spread]), "lags": np.array(self.lags, dtype=np.int64)}

    def restore(self, state: State) -> None:
        """Take over a net; ValueError when its arrays do not fit this form."""
        try:
            steps, spread = (float(number) for number in state["about"])
            lags = tuple(int(days) for days in state["lags"])
            net = Net(_columns(lags, int(steps)), len(segment_edges(int(steps))) - 1)
            arrays = {name.removeprefix("net."): array for name, array in state.items() if name.startswith("net.")}
            net.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in arrays.items()})
        except (KeyError, RuntimeError, TypeError) as error:
            raise ValueError(f"lstm needs the arrays of a net of this form: {error}") from error
        if not set(lags) <= set(DAYS_BACK) or not spread > 0:
            raise ValueError(f"lstm needs lags out of {DAYS_BACK} and a spread above 0, had {lags} and {spread}")
        self.steps, self.spread, self.lags, self.net = int(steps), spread, lags, net.eval()

    def _reach(self, history: History) -> int:
        """The first position with the whole sequence before it."""
        return max(BLOCKS * history.window + NEWEST, NEWEST)

    def _targets(self, history: History, origins: Ints) -> tuple[Floats, Bools]:
        """log(mean load of each segment + floor) − level, and which of them are known: shapes (origins, segments)."""
        edges = segment_edges(self.steps)
        known = np.isfinite(history.values)
        sums = np.concatenate(([0.0], np.cumsum(np.where(known, history.values, 0.0))))
        counts = np.concatenate(([0], np.cumsum(known)))
        at = origins[:, None] + 1 + edges[None, :]
        number = np.diff(counts[at], axis=1)
        mean = np.maximum(np.diff(sums[at], axis=1), 0.0) / np.maximum(number, 1)
        return np.log(mean + history.floor) - history.level[origins][:, None], np.asarray(number > 0)

    def _inputs(self, history: History, origins: Ints) -> tuple[torch.Tensor, torch.Tensor]:
        """What the net sees at each origin: shapes (origins, BLOCKS + NEWEST, 4) and (origins, columns)."""
        window = history.window
        level = history.level[origins][:, None]
        # a block's level is the trailing mean at its end; the newest steps are themselves
        ends = origins[:, None] - NEWEST - window * np.arange(BLOCKS - 1, -1, -1)[None, :]
        newest = origins[:, None] - np.arange(NEWEST - 1, -1, -1)[None, :]
        times = np.concatenate((ends, newest), axis=1)
        now = np.concatenate((history.level[ends], history.logs[newest]), axis=1) - level
        day = round(history.day)
        there = (times - day >= 0) & (1 in self.lags) & (day > window)
        before = np.where(there, history.smooth[times - day] - history.level[np.maximum(origins - day, 0)][:, None], 0.0)
        there &= np.isfinite(before)
        kind = np.broadcast_to(np.concatenate((np.zeros(BLOCKS), np.ones(NEWEST))), times.shape)
        scaled = [self._scaled(now), self._scaled(np.where(there, before, 0.0)), there.astype(np.float64), kind]
        sequence = np.stack(scaled, axis=2)
        edges = segment_edges(self.steps)
        centers = np.round((edges[:-1] + edges[1:] - 1) / 2).astype(np.int64)
        columns = [self._scaled(now[:, -5:])]
        for days in self.lags:
            lag = round(days * history.day)
            ahead = origins[:, None] + 1 + centers[None, :] - lag
            # the smoothed past must end before the origin
            seen = (ahead - window >= 0) & (ahead + window <= origins[:, None])
            moves = np.where(seen, history.smooth[ahead] - history.level[np.maximum(origins - lag, 0)][:, None], np.nan)
            seen &= np.isfinite(moves)
            columns += [self._scaled(np.where(seen, moves, 0.0)), seen.mean(axis=1, keepdims=True)]
            # how today stands against that day
            stand = np.where(origins >= lag, history.level[origins] - history.level[np.maximum(origins - lag, 0)], 0.0)
            columns.append(self._scaled(stand[:, None]))
        turns = 2 * np.pi * history.phase(origins)[:, None] * np.array([1.0, 2.0])[None, :]
        in_season = 1.0 if 1 in self.lags else 0.0
        columns += [in_season * np.sin(turns), in_season * np.cos(turns)]
        return torch.from_numpy(sequence.astype(np.float32)), torch.from_numpy(np.concatenate(columns, axis=1).astype(np.float32))

    def _scaled(self, ratios: Floats) -> Floats:
        return np.clip(ratios / self.spread, -LIMIT, LIMIT)

    def _train(self, sequence: torch.Tensor, columns: torch.Tensor, wanted: torch.Tensor, present: torch.Tensor) -> Net:
        """Minimize the absolute error of the segments and of the horizon's mean; gives the running average of the nets."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            net = Net(columns.shape[1], wanted.shape[1])
            average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(AVERAGE_DECAY))  # type: ignore[no-untyped-call]
            optimizer = torch.optim.AdamW(net.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=self._updates)
            for _ in range(self._updates):
                rows = torch.randint(len(sequence), (BATCH,))
                heard = sequence[rows]
                heard = torch.cat((heard[:, :, :2] + NOISE * torch.randn(BATCH, heard.shape[1], 2), heard[:, :, 2:]), dim=2)
                answer = net(heard, columns[rows] + NOISE * torch.randn(BATCH, columns.shape[1]))
                known, error = present[rows], answer - wanted[rows]
                number = known.sum(dim=1).clamp(min=1.0)
                whole = ((error * known).sum(dim=1) / number).abs()
                loss = (((error.abs() * known).sum(dim=1) / number) + whole).mean()
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                average.update_parameters(net)
        averaged = average.module
        assert isinstance(averaged, Net)
        return averaged.eval()


def segment_edges(steps: int) -> Ints:
    """Where the pieces of a horizon begin and end: min(steps, SEGMENTS) pieces as even as whole steps allow. Shape (segments + 1,)."""
    return np.linspace(0, steps, min(steps, SEGMENTS) + 1).round().astype(np.int64)


def _columns(lags: tuple[int, ...], steps: int) -> int:
    """How many columns the head sees: 5 newest, per lag the segments, their share seen and how today stands, and four of the time of day."""
    return 5 + len(lags) * (min(steps, SEGMENTS) + 2) + 4
