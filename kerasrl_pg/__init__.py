"""Reinforcement learning for Keras 3: policy gradients first.

    import kerasrl_pg as krl

    agent = krl.fit_agent("CartPole-v1", "ppo", steps=100_000, seed=0)
    agent.evaluate(episodes=100)
    agent.export("cartpole_policy")
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow's start-up messages, not its errors

from kerasrl_pg.agent import Agent, load_agent  # noqa: E402
from kerasrl_pg.algorithms import A2C, PPO, PolicyGradient, Reinforce  # noqa: E402
from kerasrl_pg.envs.atari import AtariProtocol  # noqa: E402
from kerasrl_pg.envs.make import make_env  # noqa: E402
from kerasrl_pg.evaluate import Evaluation  # noqa: E402
from kerasrl_pg.export import load_policy  # noqa: E402
from kerasrl_pg.fit import fit_agent  # noqa: E402
from kerasrl_pg.types import Step, TensorEnv  # noqa: E402

__version__ = "0.1.0"

__all__ = [
    "A2C",
    "PPO",
    "Agent",
    "AtariProtocol",
    "Evaluation",
    "PolicyGradient",
    "Reinforce",
    "Step",
    "TensorEnv",
    "fit_agent",
    "load_agent",
    "load_policy",
    "make_env",
]
