"""From environments to rollouts."""

from kerasrl_pg.collect.tensor_collector import TensorCollector
from kerasrl_pg.collect.vector_collector import VectorCollector

__all__ = ["TensorCollector", "VectorCollector"]
