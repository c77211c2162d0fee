"""Whatever a user calls an environment becomes something to train on and something to evaluate on."""

import functools
import re
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.classic_control import CartPoleEnv
from gymnasium.envs.registration import register
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import kerasrl_pg as krl
from kerasrl_pg.envs.cartpole import CartPole
from kerasrl_pg.envs.make import as_environment, make_env, make_render_env
from tests.contract.counter import LIMIT, Counter, CounterGraph, counters


def made(env: Any, **options: Any) -> Any:
    """What `make_env` makes; each test knows of which kind its parts are."""
    return make_env(env, **options)


class Watched(Counter):
    """A counter that knows how often it was made and closed."""

    made = 0
    closed = 0

    def __init__(self, phase=0):
        super().__init__(phase)
        type(self).made += 1

    def close(self):
        type(self).closed += 1


@pytest.fixture
def watched():
    Watched.made = Watched.closed = 0
    return Watched


@pytest.fixture(scope="module", autouse=True)
def registered_counter():
    register("TestCounter-v3", entry_point=functools.partial(Counter, 1), max_episode_steps=4, reward_threshold=2.5)
    yield
    del gymnasium.registry["TestCounter-v3"]


def test_an_id_with_a_twin_trains_in_a_graph_and_is_evaluated_on_gymnasium():
    environment = made("CartPole-v1", num_envs=4)
    training = environment.make_training()
    assert isinstance(training, CartPole)
    assert training.num_envs == 4
    evaluation = environment.make_evaluation(100)
    assert evaluation.environment.spec.id == "CartPole-v1"
    assert (environment.id, environment.reward_threshold, environment.max_episode_steps) == ("CartPole-v1", 475, 500)


def test_in_graph_false_trains_on_gymnasiums_own_vector_code():
    training = made("CartPole-v1", in_graph=False).make_training()
    assert training.num_envs == 8
    assert type(training.environment.unwrapped).__name__ == "CartPoleVectorEnv"
    assert training.autoreset_mode == AutoresetMode.NEXT_STEP


def test_any_other_id_is_vectorised_with_same_step_autoreset():
    training = made("MountainCar-v0", num_envs=3, in_graph=False).make_training()
    assert isinstance(training.environment, SyncVectorEnv)
    assert (training.num_envs, training.autoreset_mode) == (3, AutoresetMode.SAME_STEP)


def test_an_evaluation_has_no_more_environments_than_episodes():
    assert made("CartPole-v1").make_evaluation(3).num_envs == 3
    assert made("MountainCar-v0").make_evaluation(1000).num_envs < 100


def test_an_id_that_the_user_registered():
    environment = made("TestCounter-v3", num_envs=2)
    assert (environment.id, environment.reward_threshold, environment.max_episode_steps) == ("TestCounter-v3", 2.5, 4)
    adapter = environment.make_training()
    adapter.reset(seed=0)
    for _ in range(4):
        step, _ = adapter.step(np.array([0, 0]))
    assert step.truncated.all()  # by the limit of the registration
    assert not step.terminated.any()


def test_an_id_may_name_the_module_that_registers_it():
    assert made("gymnasium.envs.classic_control:MountainCar-v0", num_envs=1).max_episode_steps == 200


@pytest.mark.parametrize(
    ("env_id", "message"),
    [
        ("CartPol-v1", "unknown environment 'CartPol-v1'; did you mean CartPole-v1"),
        ("TestCounter-v2", "did you mean TestCounter-v3"),
        ("CartPole", "did you mean CartPole-v"),
        ("no_such_module:CartPole-v1", "unknown environment 'no_such_module:CartPole-v1'; did you mean"),
        ("no_such_module.part:CartPole-v1", "unknown environment 'no_such_module.part:CartPole-v1'; did you mean"),
        ("???", r"unknown environment '...'; gymnasium.pprint_registry\(\) prints all that are known"),
    ],
)
def test_an_unknown_id_is_refused_with_the_closest_ones(env_id, message):
    with pytest.raises(ValueError, match=message):
        made(env_id)


def test_what_a_users_module_fails_to_import_is_not_an_unknown_environment(tmp_path, monkeypatch):
    (tmp_path / "module_of_a_user.py").write_text("import no_such_dependency\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="No module named 'no_such_dependency'"):
        made("module_of_a_user:CartPole-v1")


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (
            "ALE/Pong-v5",
            r"env_options are not for ALE/Pong-v5: pass protocol=krl.AtariProtocol\(...\), got {'mode': 1}",
        ),
        ("VizdoomBasic-v1", r"not for VizdoomBasic-v1: pass protocol=krl.DoomProtocol\(...\), got {'mode': 1}"),
        (CartPole(num_envs=2), r"env_options are for ids: make this environment with them yourself, got {'mode': 1}"),
        (Counter, r"env_options are for ids: make this environment with them yourself, got {'mode': 1}"),
    ],
)
def test_options_where_there_are_none_say_what_to_do_instead(env, message):
    with pytest.raises(ValueError, match=message):
        made(env, env_options={"mode": 1})


def test_a_function_is_called_once_for_each_environment(watched):
    environment = made(watched, num_envs=5)
    assert (watched.made, watched.closed) == (1, 1)  # one to look at
    training = environment.make_training()
    assert watched.made == 6
    training.close()
    assert watched.closed == 6
    assert environment.make_evaluation(2).num_envs == 2


def test_a_function_must_make_an_environment():
    with pytest.raises(TypeError, match=r"must return a gymnasium.Env, it returned 'CartPole-v1'"):
        made(lambda: "CartPole-v1")


def test_one_environment_in_new_wrappers_is_still_one():
    mine = Counter(0)
    with pytest.raises(ValueError, match="must make a new environment each time, it returned one twice"):
        make_env(lambda: gymnasium.wrappers.TimeLimit(mine, 5), num_envs=2).make_training()


def test_the_environment_of_training_in_a_wrapper_of_its_own_is_no_environment_of_evaluations():
    mine = gymnasium.wrappers.TimeLimit(Counter(0), 5)
    known = make_env(mine)
    assert as_environment(mine, known) is known
    with pytest.raises(ValueError, match="is the environment of training in another wrapper: pass that object itself"):
        as_environment(gymnasium.wrappers.RecordEpisodeStatistics(mine), known)
    assert as_environment(gymnasium.wrappers.TimeLimit(Counter(0), 5), known) is not known
    several = SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")] * 2)
    agent = krl.fit_agent(several, krl.A2C(rollout_length=2), steps=4, jit_compile=False, verbose=0)
    with pytest.raises(ValueError, match="is the environment of training in another wrapper: pass that object itself"):
        agent.evaluate(env=gymnasium.wrappers.vector.RecordEpisodeStatistics(several))


def test_objects_whose_specs_hold_arrays_are_not_taken_for_one_another():
    def made():
        low, high = np.full(3, -1.0, np.float32), np.full(3, 1.0, np.float32)
        return make_env(gymnasium.wrappers.RescaleObservation(gymnasium.make("Pendulum-v1"), low, high))

    first, second = made(), made()
    assert first.is_like(first)
    assert not first.is_like(second)


@pytest.mark.parametrize("num_envs", [1, 3])
def test_a_function_must_make_a_new_environment_each_time(num_envs):
    """Several learners' steps on one object would be one learner's, unnoticed."""
    mine = Counter(0)
    with pytest.raises(ValueError, match="must make a new environment each time, it returned one twice"):
        made(lambda: mine, num_envs=num_envs).make_training()


def test_one_environment_object_is_used_and_left_open(watched):
    mine = watched()
    environment = made(mine)
    training = environment.make_training()
    assert training.num_envs == 1
    training.reset(seed=0)
    training.step(np.array([1]))
    assert mine.count == 2  # it is that very object
    training.close()
    environment.make_evaluation(10).close()
    assert (watched.made, watched.closed) == (1, 0)


def test_one_environment_object_cannot_be_several():
    with pytest.raises(ValueError, match=r"one environment object cannot be stepped 4 times .* num_envs=1"):
        made(Counter(0), num_envs=4)


def test_one_environment_object_keeps_its_wrappers_and_its_facts():
    environment = made(gymnasium.make("MountainCar-v0", max_episode_steps=3))
    assert environment.max_episode_steps == 3
    adapter = environment.make_training()
    adapter.reset(seed=0)
    for _ in range(3):
        step, _ = adapter.step(np.array([0]))
    assert step.truncated.all()


def test_a_vector_environment_is_used_as_it_is():
    mine = counters(AutoresetMode.DISABLED)
    environment = made(mine)
    assert environment.make_training().environment is mine
    assert environment.make_training().autoreset_mode == AutoresetMode.DISABLED
    with pytest.raises(ValueError, match=r"num_envs must be that of the vector environment \(3\), got 8"):
        made(mine, num_envs=8)


def test_a_tensor_env_without_an_original_is_evaluated_on_itself():
    mine = CounterGraph()
    environment = made(mine)
    assert environment.make_training() is mine
    assert (environment.id, environment.max_episode_steps) == (None, LIMIT)
    evaluation = environment.make_evaluation(50)
    assert evaluation.reset(seed=0).tolist() == [[0, 0, 0], [1, 0, 0], [2, 0, 0]]
    with pytest.raises(ValueError, match=r"num_envs must be that of the TensorEnv \(3\), got 8"):
        made(mine, num_envs=8)


def test_a_tensor_env_with_an_original_is_evaluated_on_that():
    environment = made(CartPole(num_envs=6))
    assert environment.make_training().num_envs == 6
    assert environment.make_evaluation(5).environment.spec.id == "CartPole-v1"


class Pole(CartPole):
    """A user's graph environment, of an id that this package knows nothing about."""

    def __init__(self, gymnasium_id):
        super().__init__(num_envs=6)
        self.gymnasium_id = gymnasium_id


@pytest.fixture
def registered_pole():
    register("TestPole-v0", entry_point=CartPoleEnv, max_episode_steps=500, reward_threshold=400.0)
    yield "TestPole-v0"
    del gymnasium.registry["TestPole-v0"]


def test_a_users_tensor_env_is_evaluated_on_the_original_that_it_names(registered_pole, tmp_path):
    mine = Pole(registered_pole)
    environment = made(mine)
    assert environment.make_training() is mine
    assert (environment.id, environment.spec_id) == ("TestPole-v0", "TestPole-v0")
    assert (environment.reward_threshold, environment.max_episode_steps) == (400.0, 500)

    agent: Any = krl.fit_agent(mine, krl.A2C(), steps=60, eval_episodes=1, jit_compile=False, verbose=0)
    played = agent.environment.make_evaluation(2).environment.envs[0].unwrapped
    assert (type(played), played.spec.id) == (CartPoleEnv, "TestPole-v0")
    assert agent.evaluate(episodes=2).lengths.max() <= 500
    assert agent.describe()["environment"] == "TestPole-v0"
    assert krl.load_agent(agent.save(tmp_path / "agent")).evaluate(episodes=1).returns.shape == (1,)
    card = krl.describe(mine)
    assert (card.id, card.reward_threshold, card.in_graph) == ("TestPole-v0", 400.0, True)


def test_an_original_with_other_spaces_is_refused_when_it_is_evaluated_on():
    with pytest.raises(ValueError, match=r"the environment's observation_space is .* the agent's"):
        krl.fit_agent(Pole("MountainCar-v0"), krl.A2C(), steps=60, eval_episodes=1, jit_compile=False, verbose=0)


def test_an_original_that_is_not_registered_is_named():
    message = "gymnasium_id of Pole must be registered, or None: unknown environment 'TestPole-v7'; did you mean"
    with pytest.raises(ValueError, match=message):
        made(Pole("TestPole-v7"))


@pytest.mark.parametrize("env", [None, 3, ["CartPole-v1"], spaces.Discrete(2)])
def test_anything_else_is_refused(env):
    with pytest.raises(TypeError, match=r"env must be an id, a Gymnasium environment .* got"):
        made(env)


def test_numpys_integers_are_integers():
    training = made("CartPole-v1", num_envs=np.int64(3)).make_training()
    assert (training.num_envs, type(training.num_envs)) == (3, int)


@pytest.mark.parametrize("num_envs", [0, -1, 2.0, True, "8", np.True_, np.int64(0)])
def test_a_wrong_number_of_environments_is_refused(num_envs):
    with pytest.raises(ValueError, match=re.escape(f"num_envs must be an integer of at least 1, got {num_envs!r}")):
        made("CartPole-v1", num_envs=num_envs)


def test_a_render_environment_renders():
    environment = make_render_env("CartPole-v1")
    environment.reset(seed=0)
    frame: Any = environment.render()
    assert frame.shape[-1] == 3
    environment.close()
    with pytest.raises(ValueError, match="unknown environment"):
        make_render_env("CartPol-v1")


PLAIN = krl.PPO(rollout_length=16, epochs=1, num_minibatches=1)


@pytest.mark.parametrize(
    ("env_id", "algorithm"),
    [
        ("FrozenLake-v1", PLAIN),
        ("Taxi-v4", krl.A2C()),
        ("CliffWalking-v1", krl.A2C()),
        ("Blackjack-v1", krl.Reinforce()),
        ("CartPole-v1", krl.PolicyGradient()),
    ],
)
def test_gymnasiums_own_environments_train_and_are_evaluated(env_id, algorithm):
    """Tables (Discrete), cards (a Tuple of Discrete) and vector code, none of them in a graph."""
    agent: Any = krl.fit_agent(env_id, algorithm, steps=200, num_envs=4, in_graph=False, jit_compile=False, verbose=0)
    assert agent.steps >= 200
    limit = agent.environment.max_episode_steps or 1000
    if env_id != "CliffWalking-v1":  # it has no time limit, and a poor policy never arrives
        result = agent.evaluate(episodes=5, seed=0, sample=True)
        assert len(result.returns) == 5
        assert result.lengths.max() <= limit


@pytest.mark.slow  # the initial weights alone take 20 s: at 240x320 the Nature network has 30 million
def test_vizdoom_trains_through_gymnasium(monkeypatch, tmp_path):
    """A Dict of an image and numbers, as Gymnasium makes it: without our protocol."""
    pytest.importorskip("vizdoom.gymnasium_wrapper")
    monkeypatch.chdir(tmp_path)  # the engine writes its settings to where it runs
    agent: Any = krl.fit_agent(
        lambda: gymnasium.make("VizdoomDefendCenter-v1"), krl.A2C(rollout_length=4), steps=16, num_envs=2,
        jit_compile=False, verbose=0,
    )  # fmt: skip
    assert agent.updates == 2
    assert set(agent.observation_space.spaces) == {"screen", "gamevariables"}
    assert np.isfinite(agent.history.history["loss"]).all()


def test_environments_made_here_are_closed_and_the_users_are_left_open():
    closed = []

    class Noted(gymnasium.Wrapper):
        def close(self):
            closed.append(self)

    krl.fit_agent(
        lambda: Noted(gymnasium.make("CartPole-v1")), krl.A2C(), steps=10, num_envs=2, jit_compile=False, verbose=0
    ).evaluate(episodes=2)
    assert len(closed) == 1 + 2 + 2  # the one looked at first, those of training, those of the evaluation
    closed.clear()
    mine = Noted(gymnasium.make("CartPole-v1"))
    krl.fit_agent(mine, krl.A2C(), steps=10, jit_compile=False, verbose=0).evaluate(episodes=2)
    assert not closed


class Talkative(Counter):
    """Infos of which Gymnasium could make no arrays, one of them of a name that it uses itself."""

    def reset(self, *, seed=None, options=None):
        observation, _ = super().reset(seed=seed, options=options)
        return observation, {"final_obs": np.full_like(observation, -7)}

    def step(self, action):
        *step, _ = super().step(action)
        return *step, {"legal": np.arange(1 + self.np_random.integers(4)), "large": 2**70, "final_obs": "mine"}


def test_the_infos_of_environments_do_not_matter():
    silent, talkative = (made(functools.partial(kind, 1), num_envs=2).make_training() for kind in (Counter, Talkative))
    for environment in (silent, talkative):
        environment.reset(seed=0)
    for _ in range(3 * LIMIT):
        expected, got = (environment.step(np.zeros(2, int))[0] for environment in (silent, talkative))
        np.testing.assert_equal(got, expected)


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (np.zeros(3), TypeError, r"must return \(observation, info\), it returned array"),
        ((np.zeros(4), {}), ValueError, r"must return Box.*\(3,\).*, it returned one of shape \(4,\)"),
        ((np.zeros(3, complex), {}), ValueError, r"must return Box.*, it returned one of complex128"),
    ],
)
def test_an_environment_whose_reset_breaks_its_word_is_named(answer, error, message):
    class Broken(gymnasium.Env):
        observation_space = spaces.Box(-1, 1, (3,))
        action_space = spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            return answer

    with pytest.raises(error, match=f"reset of <Broken.*{message}"):
        made(Broken).make_training().reset(seed=0)


@pytest.mark.parametrize(
    ("observation", "message"),
    [(np.zeros(1), "must return Discrete.*it returned one of shape"), (0.5, "must return Discrete.*one of float64")],
)
def test_an_environment_whose_step_breaks_its_word_is_named(observation, message):
    class Broken(gymnasium.Env):
        observation_space = spaces.Discrete(3)
        action_space = spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            return 0, {}

        def step(self, action):
            return observation, 0.0, False, False, {}

    environment = made(Broken).make_training()
    environment.reset(seed=0)
    with pytest.raises(RuntimeError, match=f"raised ValueError in step 1: step of <Broken.*{message}"):
        environment.step(np.zeros(8, int))


@pytest.mark.parametrize("reward", [None, np.array([1.0]), "1", 1j])
def test_a_reward_that_is_no_number_is_named(reward):
    class Broken(Counter):
        def step(self, action):
            observation, _, *ends, info = super().step(action)
            return observation, reward, *ends, info

    environment = made(functools.partial(Broken, 1)).make_training()
    environment.reset(seed=0)
    with pytest.raises(
        RuntimeError, match="environment Broken raised TypeError in step 1: its reward must be a number"
    ):
        environment.step(np.zeros(8, int))


def test_an_environment_is_filmed_whatever_it_was_trained_with():
    assert make_render_env("CartPole-v1", {"render_mode": "human"}).render_mode == "rgb_array"
