"""Keras models for policies and values. They know nothing about algorithms."""

from kerasrl_pg.models.actor_critic import PolicyModel, PolicyOutput, actor_critic, default_model
from kerasrl_pg.models.preprocessing import RunningNormalizer, ValueDenormalizer
from kerasrl_pg.models.trunks import mlp_trunk, nature_conv_trunk, small_conv_trunk

__all__ = [
    "PolicyModel",
    "PolicyOutput",
    "RunningNormalizer",
    "ValueDenormalizer",
    "actor_critic",
    "default_model",
    "mlp_trunk",
    "nature_conv_trunk",
    "small_conv_trunk",
]
