"""Cards of environments: what they say, in one reading of the environment itself."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

import kerasrl_pg as krl
from kerasrl_pg.envs.cartpole import CartPole
from kerasrl_pg.presets import PRESETS


def rows_of(card):
    """The printed lines by their names, what was wrapped put together again."""
    rows, name = {}, ""
    for line in str(card).splitlines()[1:]:
        name = line[2:28].strip() or name
        rows[name] = " ".join([*filter(None, [rows.get(name)]), line[28:]])
    return rows


class Odd(gymnasium.Env):
    """Spaces of many kinds."""

    observation_space = spaces.Dict(
        {
            "screen": spaces.Box(0, 255, (16, 16, 3), np.uint8),
            "place": spaces.Tuple([spaces.Discrete(5), spaces.Box(-np.inf, np.inf, (), np.float32)]),
            "many": spaces.Box(np.arange(-9.0, 0.0), np.ones(9), dtype=np.float64),
        }
    )
    action_space = spaces.Box(np.array([-1.0, 0.0], np.float32), np.array([1.0, 0.5], np.float32))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}


def test_a_card_says_what_an_agent_sees_and_does_and_when_it_has_won():
    card = krl.describe("CartPole-v1")
    assert str(card).splitlines()[0] == "CartPole-v1"
    rows = rows_of(card)
    assert rows["observations"] == "Box(4,) float32, [-4.8, -inf, -0.4189, -inf] to [4.8, inf, 0.4189, inf]"
    assert rows["actions"] == "Discrete(2)"
    assert (rows["time limit"], rows["solved at"], rows["trains in graph"]) == ("500 steps", "475", "yes")
    assert rows["presets"].split(", ")[0] == "cartpole-ppo"


def test_its_presets_are_all_that_fit_agent_knows_for_it_and_lines_stay_short():
    card = krl.describe("CartPole-v1")
    assert card.presets == tuple(name for name, preset in PRESETS.items() if preset.env == "CartPole-v1")
    assert rows_of(card)["presets"] == ", ".join(card.presets)
    assert max(len(line) for line in str(card).splitlines()) <= 120


def test_a_card_is_shown_by_a_notebook_as_it_prints():
    card = krl.describe("CartPole-v1")
    assert repr(card) == str(card)


def test_a_games_card_states_its_protocol():
    card = krl.describe("ale_py:ALE/Pong-v5", protocol=krl.AtariProtocol(repeat_action_probability=0.25))
    rows = rows_of(card)
    assert card.id == "ALE/Pong-v5"
    assert "pong-fast" in card.presets
    assert rows["observations"] == "Box(4, 84, 84) uint8, 0 to 255"
    assert (rows["time limit"], rows["repeat action probability"]) == ("27000 steps", "0.25")
    assert rows["trains in graph"] == "no"


def test_an_ids_options_change_what_is_described():
    card = krl.describe("kerasrl_pg/GridWorld-v0", env_options={"observation": "grid", "max_episode_steps": 50})
    assert card.observation_space.shape == (9, 10, 3)
    assert rows_of(card)["time limit"] == "50 steps"
    assert rows_of(card)["observation"] == "grid"


def test_each_part_of_an_observation_has_a_row():
    env = Odd()
    rows = rows_of(krl.describe(env))
    assert rows["observations screen"] == "Box(16, 16, 3) uint8, 0 to 255"
    assert rows["observations place 0"] == "Discrete(5)"
    assert rows["observations place 1"] == "Box float32, -inf to inf"
    assert rows["observations many"] == "Box(9,) float64, (-9 .. -1) to 1"
    assert rows["actions"] == "Box(2,) float32, [-1, 0] to [1, 0.5]"
    assert (rows["time limit"], rows["solved at"], rows["presets"]) == ("none", "not defined", "none")


@pytest.mark.parametrize(
    ("make", "in_graph"),
    [
        (lambda: Odd, False),
        (lambda: CartPole(num_envs=3), True),
        (lambda: gymnasium.make_vec("CartPole-v1", num_envs=3), False),
    ],
)
def test_whatever_can_be_trained_on_can_be_described(make, in_graph):
    card = krl.describe(make())
    assert card.in_graph == in_graph


def test_a_users_environment_is_left_open():
    closed = []

    class Closing(Odd):
        def close(self):
            closed.append(self)

    krl.describe(Closing())
    assert closed == []
    krl.describe(Closing)
    assert len(closed) == 2  # those that were made for it


def test_an_unknown_id_is_an_error_that_names_the_closest():
    with pytest.raises(ValueError, match="unknown environment 'CartPole-v7'; did you mean"):
        krl.describe("CartPole-v7")


def test_an_object_is_known_by_the_id_in_its_spec():
    card = krl.describe(gymnasium.make("CartPole-v1"))
    assert card.id == "CartPole-v1"
    assert "cartpole-ppo" in card.presets
