"""Reinforcement learning for Keras 3: policy gradients first.

    import kerasrl_pg as krl

    agent = krl.fit_agent("CartPole-v1", "ppo", steps=100_000, seed=0)
    agent.evaluate(episodes=100)
    agent.export("cartpole_policy")

Names are imported when they are first used: TensorFlow takes seconds, which `kerasrl-pg --help` need not wait for.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

from kerasrl_pg.envs import gridworld_gymnasium as _gridworld  # noqa: F401  registers its id with Gymnasium

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow's start-up messages, not its errors

_ONE_THREAD = "--xla_cpu_multi_thread_eigen"
_xla_flags = os.environ.get("XLA_FLAGS", "")
if (os.cpu_count() or 1) <= 2 and _ONE_THREAD not in _xla_flags:
    # On two cores XLA loses more by handing small operations to a second thread than that thread gains
    # (docs/performance.md). It reads this before TensorFlow's first operation.
    os.environ["XLA_FLAGS"] = f"{_xla_flags} {_ONE_THREAD}=false".strip()

if TYPE_CHECKING:
    from kerasrl_pg.agent import Agent
    from kerasrl_pg.algorithms import A2C, DQN, NFQ, PPO, CrossEntropy, PolicyGradient, Prioritized, Reinforce
    from kerasrl_pg.environment_card import EnvironmentCard, describe
    from kerasrl_pg.envs.atari import AtariProtocol
    from kerasrl_pg.envs.doom import DoomProtocol
    from kerasrl_pg.envs.gridworld import GridWorld
    from kerasrl_pg.envs.make import make_env
    from kerasrl_pg.envs.tensor_env import check_tensor_env
    from kerasrl_pg.evaluate import Evaluation
    from kerasrl_pg.exported_policy import load_policy
    from kerasrl_pg.fit import fit_agent
    from kerasrl_pg.grid_pictures import plot_action_values, plot_grid, plot_policy, plot_values
    from kerasrl_pg.loading import load_agent
    from kerasrl_pg.models.q_network import dueling_q_network, q_network
    from kerasrl_pg.plotting import plot_episodes, plot_history, plot_seeds
    from kerasrl_pg.screen_export import export_for_screens
    from kerasrl_pg.seed_runs import SeedRuns, fit_seeds, fit_sweep
    from kerasrl_pg.training.callbacks import StopAtReturn
    from kerasrl_pg.types import Step, TensorEnv
    from kerasrl_pg.video import record_video, show_video
    from kerasrl_pg.video_recorder import VideoRecorder

__version__ = "0.1.0"

_HOMES = {
    "A2C": "algorithms",
    "DQN": "algorithms",
    "NFQ": "algorithms",
    "PPO": "algorithms",
    "Agent": "agent",
    "AtariProtocol": "envs.atari",
    "CrossEntropy": "algorithms",
    "DoomProtocol": "envs.doom",
    "EnvironmentCard": "environment_card",
    "Evaluation": "evaluate",
    "GridWorld": "envs.gridworld",
    "PolicyGradient": "algorithms",
    "Prioritized": "algorithms",
    "Reinforce": "algorithms",
    "SeedRuns": "seed_runs",
    "Step": "types",
    "StopAtReturn": "training.callbacks",
    "TensorEnv": "types",
    "VideoRecorder": "video_recorder",
    "check_tensor_env": "envs.tensor_env",
    "describe": "environment_card",
    "dueling_q_network": "models.q_network",
    "export_for_screens": "screen_export",
    "fit_agent": "fit",
    "fit_seeds": "seed_runs",
    "fit_sweep": "seed_runs",
    "load_agent": "loading",
    "load_policy": "exported_policy",
    "make_env": "envs.make",
    "plot_action_values": "grid_pictures",
    "plot_episodes": "plotting",
    "plot_grid": "grid_pictures",
    "plot_history": "plotting",
    "plot_policy": "grid_pictures",
    "plot_seeds": "plotting",
    "plot_values": "grid_pictures",
    "q_network": "models.q_network",
    "record_video": "video",
    "show_video": "video",
}

__all__ = [
    "A2C",
    "DQN",
    "NFQ",
    "PPO",
    "Agent",
    "AtariProtocol",
    "CrossEntropy",
    "DoomProtocol",
    "EnvironmentCard",
    "Evaluation",
    "GridWorld",
    "PolicyGradient",
    "Prioritized",
    "Reinforce",
    "SeedRuns",
    "Step",
    "StopAtReturn",
    "TensorEnv",
    "VideoRecorder",
    "check_tensor_env",
    "describe",
    "dueling_q_network",
    "export_for_screens",
    "fit_agent",
    "fit_seeds",
    "fit_sweep",
    "load_agent",
    "load_policy",
    "make_env",
    "plot_action_values",
    "plot_episodes",
    "plot_grid",
    "plot_history",
    "plot_policy",
    "plot_seeds",
    "plot_values",
    "q_network",
    "record_video",
    "show_video",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
