"""An agent acts, is saved, and goes on training as if it had never stopped."""

import concurrent.futures
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import gymnasium
import keras
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces
from keras.optimizers.schedules import PolynomialDecay

import kerasrl_pg as krl
from kerasrl_pg.models import actor_critic, mlp_trunk

EPOCH = 20
"""Steps: two updates of two environments and five steps."""


def small_model():
    inputs = keras.Input((4,))
    features = keras.layers.Dense(8, activation="tanh", kernel_initializer=keras.initializers.GlorotUniform(1))(inputs)
    heads = {
        name: keras.layers.Dense(size, kernel_initializer=keras.initializers.GlorotUniform(2))(features)
        for name, size in (("policy", 2), ("value", 1))
    }
    return keras.Model(inputs, heads)


FIVE_STEPS = krl.A2C(rollout_length=5)


def fit(steps, algorithm=FIVE_STEPS, *, env="CartPole-v1", **arguments):
    """Interpreted: XLA's compilation would take most of the time."""
    settings = {"num_envs": 2, "steps_per_epoch": EPOCH, "jit_compile": False, "verbose": 0}
    return krl.fit_agent(env, algorithm, steps=steps, **{**settings, **arguments})


def assert_same_weights(one, other):
    for expected, weight in zip(one.model.get_weights(), other.model.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, expected)


@pytest.fixture(scope="module")
def agent():
    return fit(3 * EPOCH, model=small_model())


def fit_ppo(steps, **arguments):
    """All that a training can go on wrongly from: running statistics, dropout, minibatches, schedules on the way."""

    def normalizing(observation_space, action_space, seed):
        trunk = mlp_trunk((8,), dropout=0.2, seed=seed)
        more = {"normalize_observation": True, "normalize_value": True}
        return actor_critic(observation_space, action_space, trunk=trunk, seed=seed, **more)

    algorithm = krl.PPO(
        rollout_length=10,
        epochs=2,
        num_minibatches=2,
        clip_epsilon=PolynomialDecay(0.3, 20, 0.1),
        entropy_coef=PolynomialDecay(0.1, 20, 0.0),
    )
    optimizer = keras.optimizers.Adam(PolynomialDecay(0.01, 30, 0.001))
    return fit(steps, algorithm, model=normalizing, optimizer=optimizer, **arguments)


@pytest.fixture(scope="module")
def uninterrupted():
    return fit_ppo(6 * EPOCH)


def test_one_observation_gives_an_action_and_a_batch_a_batch(agent):
    observations = np.linspace(-1, 1, 28, dtype=np.float32).reshape(7, 4)
    actions = agent.act(observations)
    assert actions.shape == (7,)
    assert all(agent.action_space.contains(action) for action in actions)
    assert [agent.act(observation) for observation in observations] == actions.tolist()
    assert agent.action_space.contains(agent.act(observations[0]))


@pytest.mark.parametrize("shape", [(3,), (7, 3), (2, 7, 4), ()])
def test_an_observation_of_another_shape_is_refused_with_both_shapes(agent, shape):
    with pytest.raises(ValueError, match=r"has shape \[4\], a batch of B has \[B, 4\]; got \["):
        agent.act(np.zeros(shape))


def test_acting_on_any_batch_size_is_one_trace():
    fresh = krl.Agent(krl.A2C(), small_model(), keras.optimizers.Adam(), spaces.Box(-1, 1, (4,)), spaces.Discrete(2))
    for batch_size in (1, 7, 100):
        fresh.act(np.zeros((batch_size, 4)))
        fresh.act(np.zeros((batch_size, 4)), sample=True)
    fresh.act(np.zeros(4))
    assert fresh._greedy.experimental_get_tracing_count() == 1
    assert fresh._sampled.experimental_get_tracing_count() == 1


def test_drawn_actions_follow_their_seed_and_without_one_are_drawn_anew(agent):
    observations = np.zeros((200, 4))
    first = agent.act(observations, sample=True, seed=3)
    assert set(first) == {0, 1}
    np.testing.assert_array_equal(agent.act(observations, sample=True, seed=3), first)
    assert (agent.act(observations, sample=True, seed=4) != first).any()
    assert (agent.act(observations, sample=True) != agent.act(observations, sample=True)).any()
    np.testing.assert_array_equal(agent.act(observations, sample=True, seed=np.int64(3)), first)


def test_an_evaluation_is_of_whole_greedy_episodes_whose_seeds_count_up(agent):
    def make():
        return gymnasium.make("CartPole-v1")

    result = agent.evaluate(episodes=5, seed=1, env=make)
    assert agent.evaluate(episodes=5, seed=1, env=make).returns.tolist() == result.returns.tolist()
    assert result.mean == pytest.approx(result.returns.mean())
    environment = make()
    observation, _ = environment.reset(seed=3)
    steps, ended = 0, False
    while not ended:
        observation, _, terminated, truncated, _ = environment.step(agent.act(observation))
        steps, ended = steps + 1, terminated or truncated
    assert result.lengths[2] == steps


class BeginningAlike(gymnasium.Wrapper):
    """The same first state whatever the seed: only actions make a difference."""

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=0, options=options)


def test_an_evaluations_seed_is_that_of_the_drawn_actions_too(agent):
    def returns(seed):
        env = lambda: BeginningAlike(gymnasium.make("CartPole-v1"))  # noqa: E731
        return agent.evaluate(episodes=5, seed=seed, sample=True, env=env).returns.tolist()

    assert returns(1) == returns(1) != returns(2)


@pytest.mark.parametrize("episodes", [0, -1, 1.5, True])
def test_a_number_of_episodes_must_be_positive(agent, episodes):
    with pytest.raises(ValueError, match=f"episodes must be an integer of at least 1, got {episodes}"):
        agent.evaluate(episodes=episodes)


@pytest.mark.parametrize("seed", [-1, 1.5, "0", None])
def test_a_seed_is_an_integer_of_at_least_0(agent, seed):
    with pytest.raises(ValueError, match=f"seed must be an integer of at least 0, got {seed!r}"):
        agent.evaluate(episodes=1, seed=seed)
    if seed is not None:
        with pytest.raises(ValueError, match=f"seed must be an integer of at least 0, got {seed!r}"):
            agent.act(np.zeros(4), sample=True, seed=seed)


@pytest.mark.parametrize("env", ["CartPole-v1", lambda: gymnasium.make("CartPole-v1")], ids=["array", "objects"])
def test_numpys_numbers_are_numbers_of_an_evaluation(agent, env):
    numbers = {"episodes": np.int32(2), "seed": np.int64(3), "longest_episode": np.int64(1_000)}
    got = agent.evaluate(env=env, **numbers)
    assert got.returns.tolist() == agent.evaluate(env=env, episodes=2, seed=3).returns.tolist()


def test_an_agent_whose_environment_is_closed_can_be_exported(tmp_path):
    environments = gymnasium.make_vec("CartPole-v1", 2, vectorization_mode="async")
    algorithm = krl.A2C(rollout_length=5)
    agent = krl.fit_agent(environments, algorithm, steps=10, model=small_model(), jit_compile=False, verbose=0)
    environments.close()
    policy = krl.load_policy(agent.export(tmp_path / "policy"))
    assert policy.act(np.zeros(4)) == agent.act(np.zeros(4))


def test_an_environment_with_other_spaces_is_not_evaluated_on(agent):
    with pytest.raises(ValueError, match=r"the environment's observation_space is .*, the agent's"):
        agent.evaluate(env="Acrobot-v1")


def test_saved_and_loaded_an_agent_is_the_same(agent, tmp_path):
    loaded = krl.load_agent(agent.save(tmp_path / "new" / "agent"))
    assert_same_weights(loaded, agent)
    assert loaded.algorithm == agent.algorithm
    assert loaded.describe() == agent.describe()
    assert (loaded.observation_space, loaded.action_space) == (agent.observation_space, agent.action_space)
    assert loaded.history.history.keys() == agent.history.history.keys()
    for name, values in agent.history.history.items():
        np.testing.assert_array_equal(loaded.history.history[name], values)
    assert loaded.history.epoch == agent.history.epoch == [0, 1, 2]
    assert vars(loaded.episodes) == vars(agent.episodes)
    assert [variable.path for variable in loaded.optimizer.variables] == [
        variable.path for variable in agent.optimizer.variables
    ]
    for expected, variable in zip(agent.optimizer.variables, loaded.optimizer.variables, strict=True):
        np.testing.assert_array_equal(variable, expected)


def test_saved_loaded_and_trained_further_equals_the_uninterrupted_training(uninterrupted, tmp_path):
    loaded = krl.load_agent(fit_ppo(3 * EPOCH).save(tmp_path / "agent"))
    further = fit(3 * EPOCH, loaded)
    assert further is loaded
    assert_same_weights(further, uninterrupted)
    for expected, variable in zip(uninterrupted.optimizer.variables, further.optimizer.variables, strict=True):
        np.testing.assert_array_equal(variable, expected)
    assert further.steps == uninterrupted.steps == 6 * EPOCH
    assert further.updates == uninterrupted.updates
    assert vars(further.episodes) == vars(uninterrupted.episodes)
    assert further.history.epoch == uninterrupted.history.epoch == list(range(6))
    for name in ("steps", "loss", "episode_return", "learning_rate", "episodes"):
        np.testing.assert_array_equal(further.history.history[name], uninterrupted.history.history[name])


def test_a_checkpoint_is_gone_on_from_until_the_whole_budget(uninterrupted, tmp_path):
    path = tmp_path / "agent"
    assert fit_ppo(4 * EPOCH, checkpoint=path).steps == 4 * EPOCH
    resumed = fit_ppo(6 * EPOCH, checkpoint=path)  # the same script, started again
    assert_same_weights(resumed, uninterrupted)
    assert resumed.history.history["steps"] == uninterrupted.history.history["steps"]
    assert_same_weights(krl.load_agent(path), uninterrupted)
    assert fit_ppo(6 * EPOCH, checkpoint=path).updates == uninterrupted.updates  # nothing is left to do
    assert [entry.name for entry in tmp_path.iterdir()] == ["agent"]


ENDLESS = """
import sys
sys.path.insert(0, {tests!r})
import agent_test
agent_test.fit(10**9, model=agent_test.small_model(), checkpoint={path!r})
"""


def test_a_killed_training_leaves_a_whole_agent_that_resumes_as_if_nothing_had_happened(tmp_path):
    path = tmp_path / "agent"
    script = ENDLESS.format(tests=os.path.dirname(__file__), path=str(path))
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not path.exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(0.5)  # in the middle of some later checkpoint
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    steps = krl.load_agent(path).steps
    assert steps % EPOCH == 0
    resumed = fit(steps + EPOCH, checkpoint=path)
    assert resumed.steps == steps + EPOCH
    assert_same_weights(resumed, fit(steps + EPOCH, model=small_model()))
    assert [entry.name for entry in tmp_path.iterdir()] == ["agent"]  # and nothing half-written beside it


def test_killed_between_taking_the_old_agent_away_and_putting_the_new_one_there_none_is_lost(agent, tmp_path):
    path = agent.save(tmp_path / "agent")
    scratch = tmp_path / ".agent.saving"
    scratch.mkdir()
    path.rename(scratch / "old")  # what `save` had done when it was killed
    assert krl.load_agent(path).steps == agent.steps
    resumed = fit(agent.steps, checkpoint=path)
    assert resumed.updates == agent.updates
    assert [entry.name for entry in tmp_path.iterdir()] == ["agent"]


def test_two_that_save_to_one_place_wait_for_each_other(agent, tmp_path):
    """As a job that was started again while the first still runs. The lock keeps threads apart as it does processes."""
    source, path = agent.save(tmp_path / "source"), tmp_path / "shared" / "agent"

    def save(other):
        for _ in range(10):
            other.save(path, overwrite=True)

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        list(pool.map(save, [krl.load_agent(source) for _ in range(2)]))
    assert krl.load_agent(path).steps == agent.steps
    assert [entry.name for entry in path.parent.iterdir()] == ["agent"]


def test_a_link_stays_one_and_what_it_leads_to_is_replaced(agent, tmp_path):
    (tmp_path / "large_disk").mkdir()
    link, target = tmp_path / "agent", tmp_path / "large_disk" / "run"
    link.symlink_to(target)
    first = fit(agent.steps, checkpoint=link)
    second = fit(first.steps + EPOCH, checkpoint=link)
    assert link.is_symlink()
    assert krl.load_agent(target).steps == krl.load_agent(link).steps == second.steps > first.steps
    assert [entry.name for entry in target.parent.iterdir()] == ["run"]


def test_saving_replaces_only_an_agent_and_only_if_told_to(agent, tmp_path):
    path = agent.save(tmp_path / "agent")
    with pytest.raises(FileExistsError, match="agent exists already: choose another path"):
        agent.save(path)
    assert agent.save(path, overwrite=True) == path
    foreign = tmp_path / "photos"
    foreign.mkdir()
    (foreign / "cat.png").touch()
    with pytest.raises(FileExistsError, match="photos exists already"):
        agent.save(foreign, overwrite=True)
    with pytest.raises(FileExistsError, match="photos exists already"):
        agent.export(foreign)
    assert [entry.name for entry in foreign.iterdir()] == ["cat.png"]
    assert {entry.name for entry in tmp_path.iterdir()} == {"agent", "photos"}


def test_a_switch_of_an_agent_is_true_or_false(agent, tmp_path):
    observation = np.zeros(4, np.float32)
    for call, name in (
        (lambda: agent.act(observation, sample="no"), "sample"),
        (lambda: agent.evaluate(sample="no"), "sample"),
        (lambda: agent.save(tmp_path / "agent", overwrite="no"), "overwrite"),
    ):
        with pytest.raises(ValueError, match=f"{name} must be True or False, got 'no'"):
            call()


def test_a_save_that_fails_leaves_nothing(tmp_path):
    class Mine(keras.layers.Dense):
        def get_config(self):
            raise RuntimeError("this layer cannot be saved")

    inputs = keras.Input((4,))
    model = keras.Model(inputs, {"policy": Mine(2)(inputs), "value": Mine(1)(inputs)})
    agent = krl.Agent(krl.A2C(), model, keras.optimizers.Adam(), spaces.Box(-1, 1, (4,)), spaces.Discrete(2))
    with pytest.raises(RuntimeError, match="this layer cannot be saved"):
        agent.save(tmp_path / "agent")
    assert list(tmp_path.iterdir()) == []


def test_a_directory_without_an_agent_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(FileNotFoundError, match=r"no saved agent at .*: agent\.json is missing"):
            krl.load_agent(path)


def test_an_agent_of_a_users_algorithm_needs_it_to_be_loaded(agent, tmp_path):
    path = agent.save(tmp_path / "agent")
    description = json.loads((path / "agent.json").read_text())
    description["algorithm"]["name"] = "Mine"
    (path / "agent.json").write_text(json.dumps(description))
    with pytest.raises(ValueError, match=r"algorithm 'Mine' is not of this package: pass load_agent\(algorithm="):
        krl.load_agent(path)
    mine = krl.A2C(discount=0.5)
    assert krl.load_agent(path, algorithm=mine).algorithm is mine


def test_an_agent_without_an_id_is_loaded_with_its_environment(tmp_path):
    def make():
        return gymnasium.make("CartPole-v1")

    path = fit(10, env=make).save(tmp_path / "agent")
    with pytest.raises(ValueError, match=r"pass evaluate\(env="):
        krl.load_agent(path).evaluate(episodes=1)
    assert krl.load_agent(path, env=make).evaluate(episodes=1).mean > 0


def test_a_learning_rate_that_a_callback_moved_is_kept(tmp_path):
    halve = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2)
    agent = fit(EPOCH, model=small_model(), optimizer=keras.optimizers.Adam(0.01), callbacks=[halve])
    loaded = krl.load_agent(agent.save(tmp_path / "agent"))
    assert float(loaded.optimizer.learning_rate) == pytest.approx(0.005)


GRID = "kerasrl_pg/GridWorld-v0"


def test_options_may_be_arrays_but_nothing_that_cannot_be_saved(tmp_path):
    layout = np.array([list("S.."), list(".#."), list("..G")])
    agent = fit(10, env=GRID, env_options={"task": layout})
    loaded = krl.load_agent(agent.save(tmp_path / "agent"))
    assert loaded.evaluate(episodes=1).returns == agent.evaluate(episodes=1).returns
    with pytest.raises(TypeError, match=r"JSON cannot hold task=<function .*: pass a function that makes the environ"):
        fit(10, env=GRID, env_options={"task": small_model})


def reset_state(env_options):
    environment = krl.make_env(GRID, num_envs=2, env_options=env_options).make_training()
    return tf.nest.flatten(environment.reset(tf.constant([0, 1]))[0])


@pytest.mark.parametrize("in_graph", [True, False])
def test_another_environment_of_the_same_kind_is_begun_anew(in_graph, tmp_path):
    """The graph's state holds the goal, and a replay the transitions of the task that it was filled in."""
    here, there = ({"task": task, "observation": "coordinates"} for task in ("simple", "obstacle"))
    algorithm = krl.DQN(rollout_length=5, batch_size=4, learning_starts=8, replay_size=100)
    agent = fit(EPOCH, algorithm, env=GRID, env_options=here, in_graph=in_graph)
    path = agent.save(tmp_path / "agent")
    for env_options, kept in ((here, True), (there, False)):
        loaded = krl.load_agent(path, env=krl.make_env(GRID, env_options=env_options, in_graph=in_graph))
        assert (loaded.replay is not None or loaded.environment_state is not None) == kept
        fit(EPOCH, loaded, env=GRID, env_options=here, in_graph=in_graph)
    fit(EPOCH, agent, env=GRID, env_options=there, in_graph=in_graph)
    if in_graph:
        goals = [np.array(state[1]) for state in (reset_state(there), reset_state(here), agent.environment_state)]
        assert (goals[0] != goals[1]).any()
        np.testing.assert_array_equal(goals[2], goals[0])
    else:
        assert agent.replay.arrays()["head"].sum() <= EPOCH + 2 * EPOCH // 5


def test_environments_outside_the_graph_do_not_repeat_their_episodes_when_training_goes_on():
    agent = fit(0 + EPOCH, in_graph=False)
    seeds = [agent.environment_seed()]
    fit(EPOCH, agent, in_graph=False)
    assert agent.environment_seed() not in seeds


def test_an_agent_is_loaded_with_the_options_of_its_environment(tmp_path):
    options = {"task": "obstacle", "observation": "coordinates"}
    agent = fit(10, env="kerasrl_pg/GridWorld-v0", env_options=options)
    loaded = krl.load_agent(agent.save(tmp_path / "agent"))
    assert loaded.environment.options == options
    assert loaded.evaluate(episodes=1).returns == agent.evaluate(episodes=1).returns


def test_a_target_network_begins_as_a_copy_where_the_stored_agent_had_none(tmp_path):
    without = krl.DQN(rollout_length=5, batch_size=4, learning_starts=8, replay_size=100, target_every=None)
    agent = fit(EPOCH, without)
    with_target = dataclasses.replace(without, target_every=10)
    loaded = krl.load_agent(agent.save(tmp_path / "agent"), algorithm=with_target)
    for frozen, weight in zip(loaded.q_learner.target.model.get_weights(), agent.model.get_weights(), strict=True):
        np.testing.assert_array_equal(frozen, weight)
