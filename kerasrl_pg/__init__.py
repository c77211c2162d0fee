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

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow's start-up messages, not its errors

if TYPE_CHECKING:
    from kerasrl_pg.agent import Agent, load_agent
    from kerasrl_pg.algorithms import A2C, PPO, CrossEntropy, PolicyGradient, Reinforce
    from kerasrl_pg.envs.atari import AtariProtocol
    from kerasrl_pg.envs.make import make_env
    from kerasrl_pg.envs.tensor_env import check_tensor_env
    from kerasrl_pg.evaluate import Evaluation
    from kerasrl_pg.exported_policy import load_policy
    from kerasrl_pg.fit import fit_agent
    from kerasrl_pg.plotting import plot_history
    from kerasrl_pg.training.callbacks import StopAtReturn
    from kerasrl_pg.types import Step, TensorEnv
    from kerasrl_pg.video import record_video

__version__ = "0.1.0"

_HOMES = {
    "A2C": "algorithms",
    "PPO": "algorithms",
    "Agent": "agent",
    "AtariProtocol": "envs.atari",
    "CrossEntropy": "algorithms",
    "Evaluation": "evaluate",
    "PolicyGradient": "algorithms",
    "Reinforce": "algorithms",
    "Step": "types",
    "StopAtReturn": "training.callbacks",
    "TensorEnv": "types",
    "check_tensor_env": "envs.tensor_env",
    "fit_agent": "fit",
    "load_agent": "agent",
    "load_policy": "exported_policy",
    "make_env": "envs.make",
    "plot_history": "plotting",
    "record_video": "video",
}

__all__ = [
    "A2C",
    "PPO",
    "Agent",
    "AtariProtocol",
    "CrossEntropy",
    "Evaluation",
    "PolicyGradient",
    "Reinforce",
    "Step",
    "StopAtReturn",
    "TensorEnv",
    "check_tensor_env",
    "fit_agent",
    "load_agent",
    "load_policy",
    "make_env",
    "plot_history",
    "record_video",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
