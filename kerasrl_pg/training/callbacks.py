"""Keras callbacks of this package: the progress bar over environment steps, even columns, checkpoints, a stop."""

from __future__ import annotations

import math
import numbers
import os
from typing import Any

import keras
import numpy as np

SHOWN = ("episode_return", "best_return", "steps_per_second")
"""Of the log, next to the progress bar."""


class Progress(keras.callbacks.Callback):
    """Keras' progress bar, counting environment steps towards the budget, with the time left.

    Args:
        agent: whose steps are counted.
        steps: the budget.
        verbose: 1 for a bar, 2 for a line per epoch.
    """

    def __init__(self, agent: Any, steps: int, verbose: int):
        super().__init__()
        self._agent = agent
        self._steps = steps
        self._verbose = verbose
        self._bar: Any = None

    def on_train_begin(self, logs=None):
        """Start the clock."""
        if self._verbose == 1:
            self._bar = keras.utils.Progbar(self._steps, unit_name="step", stateful_metrics=list(SHOWN))

    def on_epoch_end(self, epoch, logs=None):
        """Show how far training is and how well it goes."""
        shown = [(name, logs[name]) for name in SHOWN]
        if self._bar is not None:
            self._bar.update(min(self._agent.steps, self._steps - 1), shown)
        else:
            figures = " - ".join(f"{name}: {value:.4g}" for name, value in shown)
            print(f"step {self._agent.steps}/{self._steps} - {figures}")

    def on_train_end(self, logs=None):
        """Finish the bar."""
        if self._bar is not None and logs:
            shown = [(name, logs[name]) for name in SHOWN]
            self._bar.update(min(self._agent.steps, self._steps), shown, finalize=True)


class EvenColumns(keras.callbacks.Callback):
    """Gives every column of the history one entry for each epoch: NaN where nothing was logged.

    Args:
        history: what a `keras.callbacks.History` before it in the list writes.
    """

    def __init__(self, history: keras.callbacks.History):
        super().__init__()
        self._history = history

    def on_epoch_end(self, epoch, logs=None):
        """Fill what another callback left out, or logs for the first time.

        Raises:
            ValueError: one logged what is no number.
        """
        for name, value in logs.items():
            if np.ndim(value) or not np.issubdtype(np.asarray(value).dtype, np.number):
                raise ValueError(f"callbacks may log numbers, which a history can keep: {name!r} is {value!r}")
        for name, values in self._history.history.items():
            missing = [math.nan] * (len(self._history.epoch) - len(values))
            if name in logs:
                values[:0] = missing
            else:
                values.extend(missing)


class Checkpoint(keras.callbacks.Callback):
    """Saves the agent after every epoch and at the end; the directory always holds one whole agent.

    At the end once more, because that is when callbacks such as EarlyStopping restore the best weights.

    Args:
        agent: the agent.
        path: the directory, replaced each time.
    """

    def __init__(self, agent: Any, path: str | os.PathLike):
        super().__init__()
        self._agent = agent
        self._path = path

    def on_epoch_end(self, epoch, logs=None):
        """Save."""
        self._agent.save(self._path, overwrite=True)

    def on_train_end(self, logs=None):
        """Save what the other callbacks left."""
        self._agent.save(self._path, overwrite=True)


class StopAtReturn(keras.callbacks.Callback):
    """Ends training after the first epoch whose return reaches a bar.

    Args:
        value: the bar, in the environment's units.
        monitor: name in the history; "eval_return" needs `fit_agent(eval_episodes=...)`.

    Raises:
        ValueError: `value` is no number; or, after the first epoch, the history has no such name.

    Example:
        >>> import kerasrl_pg as krl
        >>> stop = StopAtReturn(monitor="episode_length", value=1)
        >>> agent = krl.fit_agent(
        ...     "CartPole-v1", "reinforce", num_envs=2, steps=10_000, callbacks=[stop], jit_compile=False, verbose=0
        ... )
        >>> stop.stopped_epoch, agent.updates
        (0, 1)
    """

    def __init__(self, *, value: float, monitor: str = "eval_return"):
        super().__init__()
        if not isinstance(value, numbers.Real) or isinstance(value, bool) or math.isnan(value):
            raise ValueError(f"StopAtReturn: value must be a number, got {value!r}")
        self._value: float = value
        self._monitor: str = monitor
        self.stopped_epoch: int | None = None
        """Number of the epoch that reached the bar, from 0; None as long as none has."""

    def on_train_begin(self, logs=None):
        """Forget an earlier training."""
        self.stopped_epoch = None

    def on_epoch_end(self, epoch, logs=None):
        """Stop if the bar is reached."""
        logs = logs or {}
        if self._monitor not in logs:
            raise ValueError(f"StopAtReturn: monitor must be one of {', '.join(logs)}, got {self._monitor!r}")
        if logs[self._monitor] >= self._value:
            self.stopped_epoch = epoch
            self.model.stop_training = True
