"""Keras models for policies and values. They know nothing about algorithms."""

from kerasrl_pg.models.actor_critic import PolicyModel, PolicyOutput, actor_critic, default_model
from kerasrl_pg.models.patch_convolution import PatchConv2D
from kerasrl_pg.models.preprocessing import RunningNormalizer, ValueDenormalizer
from kerasrl_pg.models.q_network import QPolicy, dueling_q_network, q_network
from kerasrl_pg.models.trunks import mlp_trunk, nature_conv_trunk, small_conv_trunk

__all__ = [
    "PatchConv2D",
    "PolicyModel",
    "PolicyOutput",
    "QPolicy",
    "RunningNormalizer",
    "ValueDenormalizer",
    "actor_critic",
    "default_model",
    "dueling_q_network",
    "mlp_trunk",
    "nature_conv_trunk",
    "q_network",
    "small_conv_trunk",
]
