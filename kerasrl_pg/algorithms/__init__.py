"""The algorithms: one file each, a frozen dataclass of hyperparameters with one method, `update`."""

from kerasrl_pg.algorithms.a2c import A2C
from kerasrl_pg.algorithms.cross_entropy import CrossEntropy
from kerasrl_pg.algorithms.dqn import DQN, Prioritized
from kerasrl_pg.algorithms.nfq import NFQ
from kerasrl_pg.algorithms.policy_gradient import PolicyGradient
from kerasrl_pg.algorithms.ppo import PPO
from kerasrl_pg.algorithms.reinforce import Reinforce

ALGORITHMS = {
    "a2c": A2C,
    "cross_entropy": CrossEntropy,
    "dqn": DQN,
    "nfq": NFQ,
    "policy_gradient": PolicyGradient,
    "ppo": PPO,
    "reinforce": Reinforce,
}
"""Every algorithm by its name in `fit_agent` and on the command line."""

__all__ = ["A2C", "ALGORITHMS", "DQN", "NFQ", "PPO", "CrossEntropy", "PolicyGradient", "Prioritized", "Reinforce"]
