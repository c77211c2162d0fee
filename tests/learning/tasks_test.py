"""The tasks themselves are what the learning tests take them for."""

import numpy as np
import pytest
from gymnasium import spaces

from kerasrl_pg.envs.tensor_env import check_tensor_env
from tests.learning.tasks import Corridor, Identity, Salary, true_values

SPACES = [spaces.Discrete(4), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(3), spaces.Box(-1, 1, (2,))]


@pytest.mark.parametrize("task", [*map(Identity, SPACES), Corridor(), Salary(True), Salary(False)])
def test_every_task_keeps_the_contract(task):
    check_tensor_env(task, steps=12)


def test_the_values_of_a_salary():
    np.testing.assert_allclose(true_values(terminates=True, discount=0.5)[-3:], [1.75, 1.5, 1.0])
    np.testing.assert_allclose(true_values(terminates=False, discount=0.5), np.full(10, 2.0))
