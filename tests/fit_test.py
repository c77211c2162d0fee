"""`fit_agent`: however environment, algorithm and model are named, an agent comes back, or one clear error."""

import gymnasium
import keras
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces
from keras.optimizers.schedules import PolynomialDecay

import kerasrl_pg as krl
from kerasrl_pg.envs.gridworld import GridWorld
from kerasrl_pg.models import actor_critic, default_model, mlp_trunk, precision
from kerasrl_pg.models.preprocessing import RunningNormalizer
from kerasrl_pg.presets import PRESETS
from tests.training_aids import FirstWeights

SHARES = {"environment_share", "acting_share", "learning_share"}
EVERY_LOG = {
    "steps", "episode_return", "episode_length", "episodes", "loss", "policy_loss", "entropy", "gradient_norm",
    "best_return", "learning_rate", "steps_per_second", *SHARES,
}  # fmt: skip
CRITIC_LOG = {"value_loss", "explained_variance"}
PPO_LOG = {"approx_kl", "clip_fraction", "gradient_steps"}


FIVE_STEPS = krl.A2C(rollout_length=5)
GRID = "kerasrl_pg/GridWorld-v0"
SMALL_DQN = krl.DQN(rollout_length=5, replay_size=100, batch_size=8, learning_starts=10)


def fit(env="CartPole-v1", algorithm=FIVE_STEPS, **arguments):
    """Forty steps are four updates of two environments. Interpreted: XLA's compilation would take most of the time."""
    settings = {"steps": 40, "num_envs": 2, "jit_compile": False, "verbose": 0}
    return krl.fit_agent(env, algorithm, **{**settings, **arguments})


def trunk():
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, activation="tanh")], name="my_trunk")


def model_with(outputs_of, observation=(4,)):
    inputs = keras.Input(observation)
    return keras.Model(inputs, outputs_of(keras.layers.Dense(8)(inputs)), name="my_model")


def dense(size):
    return keras.layers.Dense(size)


def weights_equal(one, other):
    pairs = zip(one.model.get_weights(), other.model.get_weights(), strict=True)
    return all(np.array_equal(weight, expected) for weight, expected in pairs)


# What can be handed in


def test_a_name_means_the_preset_where_one_is_tuned_for_the_environment():
    preset = PRESETS["cartpole-ppo"]
    wanted = preset.build(1, preset.num_envs).algorithm
    by_algorithm, by_preset = (fit(algorithm=name, steps=1, num_envs=None) for name in ("ppo", "cartpole-ppo"))
    assert wanted.gae_lambda != krl.PPO().gae_lambda
    assert by_algorithm.algorithm.gae_lambda == by_preset.algorithm.gae_lambda == wanted.gae_lambda
    assert by_algorithm.steps == preset.num_envs * wanted.rollout_length  # one update
    assert weights_equal(by_algorithm, by_preset)


def test_a_name_means_the_documented_defaults_elsewhere():
    agent = fit(lambda: gymnasium.make("CartPole-v1"), "a2c", steps=10)
    assert agent.algorithm == krl.A2C()
    assert float(agent.optimizer.learning_rate) == pytest.approx(7e-4)


def test_an_algorithm_object_is_used_as_it_is():
    algorithm = krl.A2C(rollout_length=4, discount=0.9)
    agent = fit(algorithm=algorithm)
    assert agent.algorithm is algorithm
    assert agent.updates == 5


def test_a_trunk_is_given_heads_and_learns():
    mine = trunk()
    before = [weight.copy() for weight in mine.get_weights()]
    agent = fit(model=mine)
    outputs = agent.model(np.zeros((3, 4), np.float32))
    assert {name: tuple(output.shape) for name, output in outputs.items()} == {"policy": (3, 2), "value": (3, 1)}
    assert mine in agent.model.layers
    assert all((new != old).any() for new, old in zip(mine.get_weights()[:1], before[:1], strict=True))


@pytest.mark.parametrize(
    "outputs_of",
    [
        lambda features: {"policy": dense(2)(features), "value": dense(1)(features)},
        lambda features: (dense(2)(features), keras.layers.Flatten()(dense(1)(features))),
    ],
)
def test_a_whole_model_is_used_as_it_is(outputs_of):
    model = model_with(outputs_of)
    before = model.get_weights()
    agent = fit(model=model)
    assert agent.model is model
    assert all((new != old).any() for new, old in zip(model.get_weights(), before, strict=True))


def test_a_function_builds_the_model_from_spaces_and_seed_in_the_precision_asked_for():
    def build(observation_space, action_space, seed):
        seen.append((observation_space.shape, action_space.n, seed))
        return default_model(observation_space, action_space, seed=seed)

    seen = []
    built = fit(model=build, mixed_precision="bfloat16")
    assert [spaces for *spaces, _ in seen] == [[(4,), 2]]
    assert weights_equal(built, fit(mixed_precision="bfloat16"))  # the seed is the one that our own model gets
    assert "bfloat16" in {layer.compute_dtype for layer in built.model.layers}


def test_a_function_may_build_a_trunk():
    agent = fit(model=lambda *spaces, seed: trunk())
    assert set(agent.model(np.zeros((3, 4), np.float32))) == {"policy", "value"}


def test_a_schedule_moves_the_learning_rate_with_the_gradient_steps():
    optimizer = keras.optimizers.SGD(PolynomialDecay(0.04, 4, 0.0))
    agent = fit(optimizer=optimizer, steps_per_epoch=10)
    np.testing.assert_allclose(agent.history.history["learning_rate"], [0.03, 0.02, 0.01, 0.0], atol=1e-8)
    assert agent.optimizer.iterations == 4
    assert optimizer.iterations == 0  # a copy learned: the same optimizer may be handed in again


def test_mixed_precision_computes_the_trunk_in_bfloat16_and_the_heads_in_float32():
    agent = fit(mixed_precision="bfloat16")
    precision = {layer.name: layer.compute_dtype for layer in agent.model.layers}
    assert "bfloat16" in precision.values()
    assert precision["policy"] == precision["value_head"] == "float32"
    assert {weight.dtype for weight in agent.model.weights} == {"float32"}
    assert np.isfinite(agent.history.history["loss"]).all()
    assert keras.config.dtype_policy().name == "float32"  # the user's own models stay as they were


@pytest.mark.parametrize(("is_fast", "computed"), [(True, "bfloat16"), (False, "float32")])
def test_automatic_precision_is_bfloat16_where_the_processor_is_fast_at_it(is_fast, computed, monkeypatch):
    monkeypatch.setattr(precision, "has_fast_bfloat16", lambda: is_fast)
    agent = fit(mixed_precision="auto")
    trunks = [layer for layer in agent.model.layers if isinstance(layer, keras.Sequential)]
    assert {layer.compute_dtype for trunk in trunks for layer in trunk.layers} == {computed}
    assert np.isfinite(agent.history.history["loss"]).all()


# What comes back


@pytest.mark.parametrize(("steps", "reached"), [(1, 10), (41, 50)])
def test_training_ends_with_the_update_that_reaches_the_budget(steps, reached):
    assert fit(steps=steps).steps == reached


def test_further_training_adds_steps_also_with_more_environments():
    agent = fit(steps=400, model=trunk())
    fit(algorithm=agent, steps=100, num_envs=10, steps_per_epoch=1000)
    assert agent.steps == 500  # two updates of 50, though those before were of 10
    assert agent.updates == 42


@pytest.mark.parametrize("algorithm", ["a2c", "cross_entropy", "policy_gradient", "ppo", "reinforce"])
@pytest.mark.parametrize("in_graph", [True, False])
def test_every_policy_gradient_moves_its_weights_inside_the_graph_and_outside_it(algorithm, in_graph):
    first = FirstWeights()
    by_xla = algorithm in ("a2c", "reinforce")  # one with rollouts of a fixed length, one of whole episodes
    agent = fit("MountainCar-v0", algorithm, steps=400, in_graph=in_graph, jit_compile=by_xla, callbacks=[first])
    assert agent.steps >= 400
    assert np.isfinite(agent.history.history["policy_loss"]).all()
    pairs = list(zip(agent.model.trainable_variables, first.weights, strict=True))
    assert all(np.isfinite(variable).all() for variable, _ in pairs)
    moved = [variable.path for variable, before in pairs if (variable.numpy() != before).any()]
    has_critic = algorithm not in ("cross_entropy", "reinforce")
    assert "policy/kernel" in moved
    assert ("value_head/kernel" in moved) == has_critic
    assert len(moved) == (12 if has_critic else 6)  # kernels and biases of a trunk and a head, or of two


def test_whole_episodes_overshoot_by_less_than_a_round_of_them():
    agent = fit(algorithm=krl.Reinforce(), steps=150)
    log = agent.episodes
    assert sum(log.episode_length) == agent.steps >= 150
    assert sum(log.episode_length[:-2]) < 150
    assert set(agent.history.history) == EVERY_LOG


@pytest.mark.parametrize("in_graph", [True, False])
def test_the_history_speaks_one_vocabulary(in_graph):
    algorithm = krl.PPO(rollout_length=4, epochs=2, num_minibatches=2)
    agent = fit(algorithm=algorithm, steps_per_epoch=16, in_graph=in_graph)
    history = agent.history.history
    outside = set() if in_graph else {"copying_share"}
    assert set(history) == EVERY_LOG | CRITIC_LOG | PPO_LOG | outside
    assert history["steps"][-1] == agent.steps
    assert history["gradient_steps"] == [4.0, 4.0, 4.0]
    assert history["episodes"][-1] == len(agent.episodes)
    assert min(history["steps_per_second"]) > 0
    shares = zip(*(history[name] for name in SHARES | outside), strict=True)
    assert all(0 <= sum(of_epoch) <= 1 for of_epoch in shares)


@pytest.mark.parametrize(
    "arguments",
    [{}, {"in_graph": False}, pytest.param({"jit_compile": True}, marks=pytest.mark.slow)],
    ids=["graph", "Gymnasium", "graph by XLA"],
)
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(arguments):
    first, again, other = (fit(seed=seed, **arguments) for seed in (5, 5, 6))
    assert weights_equal(first, again)
    assert vars(first.episodes) == vars(again.episodes)
    assert not weights_equal(first, other)


def test_stop_return_waits_for_100_episodes_and_then_stops():
    # Every episode of CartPole returns more than 1.
    settings = {"model": trunk(), "stop_return": 1.0, "num_envs": 8, "steps_per_epoch": 40}
    short = fit(steps=400, **settings)
    assert short.steps == 400
    assert len(short.episodes) < 100
    agent = fit(steps=100_000, **settings)
    assert agent.steps < 10_000
    assert agent.history.history["episodes"][-2] < 100 <= len(agent.episodes)


def test_evaluations_during_training_are_on_the_gymnasium_original():
    agent = fit(eval_episodes=3, steps_per_epoch=20, seed=4)
    history = agent.history.history
    assert set(history) == EVERY_LOG | CRITIC_LOG | {"eval_return", "eval_length"}
    assert len(history["eval_return"]) == 2
    assert history["eval_return"][-1] == agent.evaluate(episodes=3, seed=4).mean


def test_evaluations_can_be_of_drawn_actions():
    agent = fit(eval_episodes=3, eval_sample=True, seed=4)
    drawn = agent.evaluate(episodes=3, seed=4, sample=True).mean
    assert agent.history.history["eval_return"][-1] == drawn != agent.evaluate(episodes=3, seed=4).mean


def test_evaluations_can_be_on_another_environment():
    def tenfold():
        return gymnasium.wrappers.TransformReward(gymnasium.make("CartPole-v1"), lambda reward: 10 * float(reward))

    history = fit(eval_env=tenfold, eval_episodes=2).history.history
    np.testing.assert_allclose(history["eval_return"], 10 * np.array(history["eval_length"]))


# What is refused


class Blank(gymnasium.Env):
    """Any spaces; it raises at step `raise_at`."""

    def __init__(self, observation_space=None, action_space=None, raise_at=None):
        self.observation_space = observation_space or spaces.Box(-1, 1, (4,))
        self.action_space = action_space or spaces.Discrete(2)
        self._raise_at = raise_at
        self._steps = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(4, np.float32), {}

    def step(self, action):
        self._steps += 1
        if self._steps == self._raise_at:
            raise KeyError("the plug was pulled")
        return np.zeros(4, np.float32), 0.0, False, False, {}


def blank(**settings):
    return lambda: Blank(**settings)


REFUSED: dict[str, tuple[dict, type[Exception], str]] = {
    "an unknown id": (
        {"env": "CartPole-v9"}, ValueError, r"unknown environment 'CartPole-v9'; did you mean CartPole-v1"),
    "an id like nothing": ({"env": "xyzzy"}, ValueError, "unknown environment 'xyzzy'; gymnasium.pprint_registry"),
    "no environment": ({"env": 3}, TypeError, "env must be an id, a Gymnasium environment .*, got 3"),
    "an unknown algorithm": (
        {"algorithm": "pppo"}, ValueError, r"unknown algorithm 'pppo'; did you mean ppo.* Known: a2c, cross_entropy"),
    "an algorithm like nothing": ({"algorithm": "zzz"}, ValueError, r"unknown algorithm 'zzz'\. Known: a2c"),
    "an algorithm's class": ({"algorithm": krl.PPO}, TypeError, r"algorithm must be a name, .* got <class .*PPO'>"),
    "another environment's preset": (
        {"env": "Acrobot-v1", "algorithm": "cartpole-ppo"}, ValueError, "is for CartPole-v1, not for Acrobot-v1"),
    "steps of 0": ({"steps": 0}, ValueError, "steps must be an integer of at least 1, got 0"),
    "negative steps": ({"steps": -1}, ValueError, "steps must be an integer of at least 1, got -1"),
    "fractional steps": ({"steps": 1.5}, ValueError, "steps must be an integer of at least 1, got 1.5"),
    "steps of True": ({"steps": True}, ValueError, "steps must be an integer of at least 1, got True"),
    "a negative seed": ({"seed": -1}, ValueError, "seed must be an integer of at least 0, got -1"),
    "no seed": ({"seed": None}, ValueError, "seed must be an integer of at least 0, got None"),
    "no environments": ({"num_envs": 0}, ValueError, "num_envs must be an integer of at least 1, got 0"),
    "half an environment": ({"num_envs": 0.5}, ValueError, "num_envs must be an integer of at least 1, got 0.5"),
    "two of one object": ({"env": Blank()}, ValueError, "one environment object cannot be stepped 2 times side by"),
    "a negative number of evaluations": ({"eval_episodes": -1}, ValueError, "eval_episodes must be .* 0, got -1"),
    "an empty epoch": ({"steps_per_epoch": 0}, ValueError, "steps_per_epoch must be an integer of at least 1, got 0"),
    "a return that is no number": ({"stop_return": "475"}, ValueError, "stop_return must be a number .*, got '475'"),
    "an unknown verbosity": ({"verbose": 3}, ValueError, "verbose must be 0, 1 or 2, got 3"),
    "a negative learning rate": (
        {"optimizer": keras.optimizers.Adam(-0.5)}, ValueError, "learning_rate must be .* at least 0, got -0.5"),
    "a learning rate of NaN": (
        {"optimizer": keras.optimizers.Adam(np.nan)}, ValueError, "learning_rate must be .* at least 0, got nan"),
    "an optimizer's name": ({"optimizer": "adam"}, TypeError, "optimizer must be a keras.*Optimizer, got 'adam'"),
    "one callback": (
        {"callbacks": keras.callbacks.TerminateOnNaN()}, TypeError, "callbacks must be a list of .*, got <keras"),
    "callbacks that are none": ({"callbacks": [print]}, TypeError, r"callbacks must be a list of .*, got \[<built-in"),
    "no strategy": ({"strategy": "mirrored"}, TypeError, "strategy must be a tf.distribute.Strategy .* 'mirrored'"),
    "an unknown precision": (
        {"mixed_precision": "float64"}, ValueError, r'must be None, "auto", "bfloat16" or "float32", got \'float64\''),
    "a precision for a model that is built": (
        {"model": trunk(), "mixed_precision": "bfloat16"}, ValueError, "mixed_precision is for models built here"),
    "an observation of text": (
        {"env": blank(observation_space=spaces.Text(5))}, TypeError, r"observation space Text.*; supported: Box"),
    "observations of any number": (
        {"env": blank(observation_space=spaces.Sequence(spaces.Discrete(2)))}, TypeError, "Sequence.*; supported"),
    "a graph to observe": (
        {"env": blank(observation_space=spaces.Graph(spaces.Box(0, 1, (2,)), None))}, TypeError, "Graph.*; supported"),
    "text within a Dict": (
        {"env": blank(observation_space=spaces.Dict(a=spaces.Text(5)))}, TypeError, "space Text.*; supported: Box"),
    "two actions at once": (
        {"env": blank(action_space=spaces.Tuple([spaces.Discrete(2)] * 2))}, TypeError,
        "unsupported action space Tuple.*; supported: Discrete, MultiDiscrete"),
    "actions of a Box of integers": (
        {"env": blank(action_space=spaces.Box(0, 3, (2,), np.int32))}, TypeError,
        r"unsupported action space Box\(0, 3, \(2,\), int32\); supported: .* Box of one float"),
    "actions of nothing": (
        {"env": blank(action_space=spaces.Box(0, 1, (2, 0)))}, TypeError, "unsupported action space Box.*(2, 0)"),
    "a switch that is a text": ({"in_graph": "no"}, ValueError, "in_graph must be True or False, got 'no'"),
    "another switch": ({"jit_compile": "no"}, ValueError, "jit_compile must be True or False, got 'no'"),
    "options in a list": ({"env_options": [1]}, TypeError, r"env_options must be a dict of .*, got \[1\]"),
    "a number of environments among the options": (
        {"env_options": {"num_envs": 2}}, ValueError, "num_envs is an argument of its own: leave it out"),
    "a model's name": (
        {"model": "mlp"}, TypeError, "model must be a keras.Model or a function that builds one, got 'mlp'"),
    "a function that builds something else": (
        {"model": lambda *spaces, seed: "mlp"}, TypeError, "or a function that builds one, got 'mlp'"),
    "a model whose outputs have other names": (
        {"model": model_with(lambda x: {"logits": dense(2)(x), "value": dense(1)(x)})}, ValueError,
        r"outputs must be \{\"policy\": \[B, 2\], \"value\": \[B, 1\]\}; 'my_model' returns shapes \{'logits'"),
    "a model of too many actions": (
        {"model": model_with(lambda x: {"policy": dense(3)(x), "value": dense(1)(x)})}, ValueError,
        r"outputs must be \{\"policy\": \[B, 2\].*'policy': \(2, 3\)"),
    "a model of three outputs": (
        {"model": model_with(lambda x: [dense(2)(x), dense(1)(x), dense(1)(x)])}, ValueError, "outputs must be"),
    "a model without a value where one is learned": (
        {"model": model_with(lambda x: {"policy": dense(2)(x)})}, ValueError,
        r'A2C learns values: the model must have an output "value" \[B, 1\]; \'my_model\' has none'),
    "a model of other numbers": (
        {"model": keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, dtype="float64")])}, ValueError,
        "weights of a model must be float32, whatever it computes in; got float64"),
    "a model of other observations": (
        {"model": model_with(lambda x: (dense(2)(x), dense(1)(x)), (7,))}, ValueError, r"shape=\(None, 7\), found"),
    "a trunk that returns no vector": (
        {"model": keras.Sequential([keras.Input((4,)), keras.layers.Reshape((2, 2))], name="my_trunk")}, ValueError,
        r"a trunk must return one tensor \[B, features\]; 'my_trunk' returns"),
    "an evaluation of other spaces": (
        {"eval_env": "Acrobot-v1", "eval_episodes": 1}, ValueError, "the environment's observation_space is"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_one_clear_error_before_anything_is_written(case, tmp_path):
    arguments, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        fit(**arguments, checkpoint=tmp_path / "new" / "agent")
    assert list(tmp_path.iterdir()) == []


def test_a_rollout_that_does_not_fit_into_memory_is_refused_before_it_is_collected():
    with pytest.raises(MemoryError, match=r"a rollout of 1,000,000,000 steps of 2 environments takes .* lower roll"):
        fit(algorithm=krl.A2C(rollout_length=10**9), in_graph=False)


def test_minibatches_that_do_not_divide_the_rollout_are_refused_by_the_algorithm():
    with pytest.raises(ValueError, match=r"num_minibatches must divide rollout_length \(10\), got 3"):
        krl.PPO(rollout_length=10, num_minibatches=3)


def test_environments_that_do_not_divide_among_the_replicas_are_refused(two_replicas):
    with pytest.raises(ValueError, match="num_envs must be a multiple of the strategy's 2 replicas, got 3"):
        fit(strategy=two_replicas, num_envs=3)


def test_an_environment_that_raises_is_named_with_the_step_and_its_exception_is_the_cause(tmp_path):
    message = "raised KeyError in step 7: 'the plug was pulled'"
    with pytest.raises(RuntimeError, match=message) as raised:
        fit(blank(raise_at=7), checkpoint=tmp_path / "agent", steps_per_epoch=20)
    assert isinstance(raised.value.__cause__, KeyError)
    assert list(tmp_path.iterdir()) == []


def test_an_environment_that_raises_later_leaves_the_last_whole_checkpoint(tmp_path):
    with pytest.raises(RuntimeError, match="in step 17"):
        fit(blank(raise_at=17), checkpoint=tmp_path / "agent", steps_per_epoch=10)
    assert krl.load_agent(tmp_path / "agent").steps == 30
    assert [entry.name for entry in tmp_path.iterdir()] == ["agent"]


def test_a_checkpoint_directory_that_holds_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").touch()
    for path in (tmp_path, tmp_path / "thesis.tex"):
        with pytest.raises(FileExistsError, match=f"{path} exists and is not a saved agent"):
            fit(checkpoint=path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_agent_is_trained_further_only_as_what_it_is(tmp_path):
    path = tmp_path / "agent"
    agent = fit(steps=10, model=trunk(), checkpoint=path)
    for argument in ({"model": trunk()}, {"mixed_precision": "bfloat16"}):
        with pytest.raises(ValueError, match="mixed_precision are those of the agent that is trained further"):
            fit(algorithm=agent, **argument)
    with pytest.raises(ValueError, match=r"the environment's observation_space is .*, the agent's"):
        fit("Acrobot-v1", agent)
    with pytest.raises(ValueError, match=r"the environment's observation_space is .*, the agent's"):
        fit("Acrobot-v1", checkpoint=path)
    for other in ("ppo", krl.PPO()):
        with pytest.raises(ValueError, match=r"holds an agent of A2C, not of ('ppo'|PPO\(.*\)): choose another path"):
            fit(algorithm=other, checkpoint=path)
    assert krl.load_agent(path).steps == 10


def test_an_agent_goes_on_from_a_checkpoint_of_its_own_algorithm_alone(tmp_path):
    path = tmp_path / "agent"
    agent = fit(steps=10)
    fit(algorithm=agent, steps=10, checkpoint=path)
    with pytest.raises(ValueError, match=r"holds an agent of A2C, not of Reinforce\(.*\): choose another path"):
        fit(algorithm=fit(algorithm=krl.Reinforce()), checkpoint=path)
    assert fit(algorithm=agent, steps=10, checkpoint=path).steps == 30


def test_an_agent_is_trained_further_with_as_many_environments_unless_told_otherwise(tmp_path):
    agent = krl.load_agent(fit(num_envs=3, steps=15).save(tmp_path / "agent"))
    fit(algorithm=agent, num_envs=None, steps=15)
    assert (agent.num_envs, agent.steps) == (3, 30)
    fit(algorithm=agent, num_envs=4, steps=20)
    assert (agent.num_envs, agent.steps) == (4, 50)


def test_a_batch_that_does_not_divide_among_the_replicas_is_refused_before_a_callback_has_begun(two_replicas, tmp_path):
    log = tmp_path / "log.csv"
    log.write_text("of an earlier training")
    dqn = krl.DQN(rollout_length=1, replay_size=100, learning_starts=40, batch_size=33)
    with pytest.raises(ValueError, match="batch_size must be a multiple of the 2 replicas of a process, got 33"):
        fit(algorithm=dqn, strategy=two_replicas, callbacks=[keras.callbacks.CSVLogger(log)])
    assert log.read_text() == "of an earlier training"


def test_a_callback_that_raises_within_an_epoch_leaves_counters_that_go_with_the_weights():
    def pull_the_plug(batch, logs):
        if batch == 1:
            raise RuntimeError("the plug was pulled")

    agent = fit(steps=20)
    callback = keras.callbacks.LambdaCallback(on_train_batch_end=pull_the_plug)
    with pytest.raises(RuntimeError, match="the plug was pulled"):
        fit(algorithm=agent, callbacks=[callback], steps_per_epoch=40)
    assert int(agent.optimizer.iterations) == agent.updates == 6
    assert agent.steps == 60


def test_a_schedule_of_ones_own_that_no_file_can_hold_trains_and_is_not_saved(tmp_path):
    class Mine(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            return 0.2

    agent = fit(algorithm=krl.PPO(rollout_length=5, epochs=1, num_minibatches=1, clip_epsilon=Mine()))
    assert agent.describe()["algorithm"]["settings"]["clip_epsilon"] == "Mine"
    with pytest.raises(
        TypeError, match=r"PPO\(clip_epsilon=.*\) cannot be saved: a schedule of your own needs a get_c"
    ):
        agent.save(tmp_path / "agent")
    within = krl.DQN(sampler=krl.Prioritized(importance_exponent=Mine()))
    for algorithm in (agent.algorithm, within):
        with pytest.raises(TypeError, match="cannot be saved: a schedule of your own"):
            fit(algorithm=algorithm, checkpoint=tmp_path / "agent")
    assert list(tmp_path.iterdir()) == []


def test_an_environment_of_gyms_old_interface_is_told_what_a_step_returns():
    class Old(Blank):
        def step(self, action):
            return np.zeros(4, np.float32), 1.0, False, {}

    with pytest.raises(RuntimeError, match=r"step of .* must return \(observation, reward, terminated, truncated"):
        fit(Old)


def test_an_environment_of_evaluations_without_evaluations_is_an_error():
    with pytest.raises(ValueError, match=r"eval_env is played for eval_episodes episodes after each epoch: .*got 0"):
        fit(eval_env="CartPole-v1")


def test_an_agent_whose_further_training_is_refused_is_left_as_it_was():
    dqn = krl.DQN(rollout_length=1, replay_size=100, learning_starts=8, batch_size=8)
    agent = fit("kerasrl_pg/GridWorld-v0", dqn, in_graph=False)
    before = agent.describe(), agent.optimizer, agent.replay
    other = {"env_options": {"task": "obstacle"}, "optimizer": keras.optimizers.SGD(), "in_graph": False}
    with pytest.raises(ValueError, match="the environment's observation_space is"):
        fit("kerasrl_pg/GridWorld-v0", agent, eval_env="CartPole-v1", eval_episodes=1, num_envs=3, **other)
    with pytest.raises(ValueError, match="the same num_envs is needed"):
        fit("kerasrl_pg/GridWorld-v0", agent, num_envs=3, in_graph=False)
    assert (agent.describe(), agent.optimizer, agent.replay) == before


def test_an_agent_keeps_its_strategy_and_its_environments_must_divide_among_the_replicas(two_replicas):
    agent = fit()
    with pytest.raises(ValueError, match=r"leave it out, or load_agent\(..., strategy=...\)"):
        fit(algorithm=agent, strategy=two_replicas)
    spread = fit(strategy=two_replicas)
    fit(algorithm=spread, strategy=two_replicas)
    with pytest.raises(ValueError, match="num_envs must be a multiple of the strategy's 2 replicas, got 3"):
        fit(algorithm=spread, num_envs=3)
    assert spread.steps == 80


FALLING = PolynomialDecay(0.01, 4, 0.0)
"""Forty steps are four gradient steps."""


def test_an_agent_whose_learning_rate_has_fallen_to_0_is_trained_further_with_another_optimizer():
    agent = fit(optimizer=keras.optimizers.Adam(FALLING))
    weights = agent.model.get_weights()
    with pytest.raises(ValueError, match="learning rate is 0 before steps=40 more are over, for its schedule is that"):
        fit(algorithm=agent)
    assert agent.steps == 40
    fit(algorithm=agent, optimizer=keras.optimizers.SGD(PolynomialDecay(0.5, 4, 0.1)))
    assert agent.steps == 80
    assert isinstance(agent.model.optimizer, keras.optimizers.SGD)
    assert agent.history.history["learning_rate"][-1] == pytest.approx(0.1)  # its schedule began with it
    assert not np.array_equal(agent.model.get_weights()[0], weights[0])


def test_a_schedule_that_ends_long_before_the_training_is_refused_and_one_that_ends_with_it_is_not(tmp_path):
    path = tmp_path / "agent"
    fit(steps=20, optimizer=keras.optimizers.Adam(FALLING), checkpoint=path)
    with pytest.raises(ValueError, match="learning rate is 0 before steps=180 more are over"):
        fit(steps=200, checkpoint=path)
    assert fit(steps=40, checkpoint=path).history.history["learning_rate"][-1] == 0
    assert fit(steps=40, checkpoint=path).steps == 40  # nothing is left to do


def test_a_learning_rate_that_begins_at_0_is_a_warm_up_and_no_end():
    warm_up = keras.optimizers.schedules.CosineDecay(0.0, 100, warmup_target=0.01, warmup_steps=4)
    agent = fit(algorithm=fit(), optimizer=keras.optimizers.Adam(warm_up))
    assert agent.history.history["learning_rate"][-1] == pytest.approx(0.01)


def test_a_checkpoint_goes_on_though_its_schedule_ended_a_little_before_its_steps(tmp_path):
    """As where environments take steps that only reset, so that more updates are needed than were planned."""
    path = tmp_path / "agent"
    fit(steps=190, optimizer=keras.optimizers.Adam(PolynomialDecay(0.01, 19, 0.0)), checkpoint=path)
    assert fit(steps=200, checkpoint=path).steps == 200


def test_the_first_episodes_do_not_tell_how_many_gradient_steps_there_will_be():
    """They are short, so that an update is few steps; later ones are long."""
    agent = fit(algorithm=krl.Reinforce(), optimizer=keras.optimizers.Adam(PolynomialDecay(0.01, 25, 0.0)))
    updates_of_short_episodes = agent.updates * (1 + 4_000 / agent.steps)
    assert updates_of_short_episodes > 40
    fit(algorithm=agent, steps=4_000)


def test_an_agent_goes_on_with_the_options_and_the_protocol_of_its_environment():
    agent = fit(env_options={"max_episode_steps": 7})
    fit(algorithm=agent)
    assert agent.environment.options == {"max_episode_steps": 7}
    assert max(agent.episodes.episode_length) == 7
    fit(algorithm=agent, env_options={"max_episode_steps": 9})
    assert agent.environment.options == {"max_episode_steps": 9}

    doom = pytest.importorskip("vizdoom") and krl.DoomProtocol(size=(30, 40), stack=2, frame_skip=8)
    agent = fit("VizdoomBasic-v1", steps=10, protocol=doom)
    fit("VizdoomBasic-v1", agent, steps=10)
    assert agent.environment.protocol["frame_skip"] == 8


def test_what_an_environment_without_an_id_showed_is_forgotten_in_one_with_an_id():
    dqn = krl.DQN(rollout_length=1, replay_size=100, learning_starts=8, batch_size=8)
    agent = fit(lambda: gymnasium.make("CartPole-v1", sutton_barto_reward=True), dqn)
    assert len(agent.replay) == 40
    fit(algorithm=agent, in_graph=False, steps=20)
    assert len(agent.replay) == agent.steps - 40


def test_a_replay_is_that_of_the_last_training_inside_the_graph_and_outside_it():
    dqn = krl.DQN(rollout_length=1, replay_size=100, learning_starts=8, batch_size=8)
    agent = fit(algorithm=dqn)
    assert (agent.replay, agent.environment_state is None) == (None, False)
    fit(algorithm=agent, in_graph=False)
    assert (len(agent.replay), agent.environment_state) == (40, None)
    fit(algorithm=agent)
    assert (agent.replay, agent.replay_begun_at[0]) == (None, 80)


def test_an_agent_goes_with_the_environment_that_it_is_trained_on_last():
    simple, obstacle = ({"task": task, "observation": "coordinates"} for task in ("simple", "obstacle"))
    agent = fit("kerasrl_pg/GridWorld-v0", env_options=simple)
    fit("kerasrl_pg/GridWorld-v0", agent, env_options=obstacle)
    assert agent.environment.options == agent.describe()["env_options"] == obstacle
    assert agent.history.params["run"]["env_options"] == obstacle


def normalizing(observation_space, action_space, seed):
    return actor_critic(
        observation_space, action_space, trunk=mlp_trunk((8,)), normalize_observation=True, normalize_value=True
    )


@pytest.mark.parametrize("in_graph", [True, False])
@pytest.mark.parametrize("algorithm", [krl.Reinforce(), krl.A2C(rollout_length=None)], ids=["reinforce", "a2c"])
def test_running_statistics_are_of_whole_episodes_too(algorithm, in_graph):
    agent = fit(algorithm=algorithm, model=normalizing, in_graph=in_graph)
    counts = [float(layer.count) for layer in agent.model.layers if hasattr(layer, "count")]
    learns_values = isinstance(algorithm, krl.A2C)
    assert counts == [agent.steps, agent.steps if learns_values else 0]


def test_running_statistics_are_refused_where_nothing_keeps_them():
    def build(observation_space, action_space, seed):
        inputs = keras.Input((4,))
        return keras.Model(inputs, dense(2)(RunningNormalizer()(inputs)))

    with pytest.raises(ValueError, match="DQN keeps no running statistics of observations: the model must do without"):
        fit(algorithm=krl.DQN(), model=build)


@pytest.mark.parametrize(("algorithm", "learned"), [(krl.Reinforce(), False), (krl.A2C(), True)])
def test_only_who_learns_values_tells_them(algorithm, learned, tmp_path):
    """A model may have a value output that no loss trains."""
    agent = fit(steps=1, algorithm=algorithm)
    assert set(agent.model.output) == {"policy", "value"}
    assert (float(abs(agent.policy(np.ones((1, 4), np.float32)).value[0])) > 0) == learned
    exported = krl.load_policy(agent.export(tmp_path / "policy"))
    assert ("value" in exported.run({"observation": np.ones((1, 4), np.float32)}, None)) == learned


def test_an_algorithm_must_be_a_dataclass():
    class Mine:
        def update(self, learner, rollout, seed):
            return {}

    with pytest.raises(TypeError, match=r"must be a dataclass, whose fields are its settings, got <.*Mine"):
        fit(algorithm=Mine())


def test_evaluations_can_be_under_another_protocol_or_with_other_options():
    obstacle = krl.make_env("kerasrl_pg/GridWorld-v0", env_options={"task": "obstacle"})
    with pytest.raises(ValueError, match="the environment's observation_space is"):
        fit("CartPole-v1", eval_env=obstacle, eval_episodes=1)
    agent = fit("kerasrl_pg/GridWorld-v0", eval_env=obstacle, eval_episodes=1)
    assert len(agent.history.history["eval_return"]) == 4


def test_numpys_numbers_are_numbers_of_an_algorithm_too(tmp_path):
    agent = fit(algorithm=krl.A2C(rollout_length=np.int64(5), discount=np.float32(0.5), normalize_advantage=np.True_))
    expected = krl.A2C(rollout_length=5, discount=0.5, normalize_advantage=True)
    assert krl.load_agent(agent.save(tmp_path / "agent")).algorithm == expected
    sizes = {"replay_size": 100, "learning_starts": 8, "batch_size": 8, "n_step": 2}
    for in_graph in (True, False):
        agent = fit(
            algorithm=krl.DQN(rollout_length=1, **{k: np.int64(v) for k, v in sizes.items()}), in_graph=in_graph
        )
        assert agent.steps >= 40


def test_numpys_integers_are_integers(tmp_path):
    agent = fit(seed=np.int64(3), steps=np.int32(20))
    assert krl.load_agent(agent.save(tmp_path / "agent")).seed == 3


class Unreadable(keras.Model):
    """Keras hands `__init__` a name and a type, which it does not take."""

    def __init__(self):
        super().__init__()
        self.hidden = keras.layers.Dense(8)

    def call(self, observation):
        return self.hidden(observation)


@keras.saving.register_keras_serializable(package="kerasrl_pg_test")
class Readable(Unreadable):
    def __init__(self, **settings):
        keras.Model.__init__(self, **settings)
        self.hidden = keras.layers.Dense(8)


def test_a_model_that_could_not_be_read_again_is_refused_where_a_checkpoint_depends_on_it(tmp_path):
    with pytest.raises(ValueError, match=r"could not be read again .*register_keras_serializable.* take \*\*kwargs"):
        fit(model=Unreadable(), checkpoint=tmp_path / "agent")
    assert list(tmp_path.iterdir()) == []
    assert fit(model=Unreadable()).steps == 40
    for steps in (40, 60):
        assert fit(model=Readable(), checkpoint=tmp_path / "agent", steps=steps).steps == steps


@keras.saving.register_keras_serializable(package="fit_test")
class Seen(keras.layers.Layer):
    """Adds a loss of its own for what it sees."""

    def call(self, inputs):
        self.add_loss(0.1 * keras.ops.mean(keras.ops.square(inputs)))
        return inputs


@pytest.mark.parametrize("algorithm", [FIVE_STEPS, SMALL_DQN], ids=["a2c", "dqn"])
@pytest.mark.parametrize("env", ["CartPole-v1", "ALE/Pong-v5"])
def test_losses_of_the_models_layers_are_learned_from(algorithm, env):
    """Also behind preprocessing that is fused into one program."""

    def weights_with(*layers, regularizer=None):
        def build(observation_space, action_space, seed):
            initializer = keras.initializers.GlorotNormal(seed=3)
            head = keras.layers.Dense(4, kernel_regularizer=regularizer, kernel_initializer=initializer)
            small = [keras.layers.AveragePooling2D(28)] if len(observation_space.shape) == 3 else []
            trunk = keras.Sequential([*small, keras.layers.Flatten(), head, *layers])
            heads = krl.q_network if algorithm is SMALL_DQN else actor_critic
            return heads(observation_space, action_space, trunk=trunk, seed=seed)

        return fit(env, algorithm, model=build, optimizer=keras.optimizers.SGD(0.01)).model.get_weights()

    plain, seen, regular = (
        weights_with(), weights_with(Seen()), weights_with(regularizer=keras.regularizers.L2(1.0))
    )  # fmt: skip
    for penalised in (seen, regular):
        assert sum(np.square(weight).sum() for weight in penalised) < sum(np.square(weight).sum() for weight in plain)


def test_an_epoch_of_whole_episodes_ends_once_it_has_its_steps():
    agent = fit(algorithm=krl.Reinforce(), steps=1000, steps_per_epoch=200)
    epochs = np.diff([0, *agent.history.history["steps"]])
    assert (epochs[:-1] >= 200).all()
    assert 3 <= len(epochs) <= 5


def test_a_checkpoint_that_cannot_be_written_is_refused_before_anything_is_trained(tmp_path):
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(PermissionError, match="file is no directory that may be written to"):
        fit(checkpoint=tmp_path / "file" / "agent", callbacks=[Never()])
    with pytest.raises(TypeError, match="checkpoint must be a path, got 5"):
        fit(checkpoint=5)


class Never(keras.callbacks.Callback):
    """Of a training that must not begin."""

    def on_train_begin(self, logs=None):
        raise AssertionError


def test_a_callback_that_brings_back_weights_alone_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"BackupAndRestore brings back weights alone.*checkpoint="):
        fit(callbacks=[keras.callbacks.BackupAndRestore(tmp_path)])


def test_the_default_strategy_is_none(two_replicas):
    assert fit(strategy=tf.distribute.get_strategy()).strategy is None
    with two_replicas.scope(), pytest.raises(ValueError, match=r"within the scope of .*: pass strategy="):
        fit()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda observation_space, action_space: None, "model must be a function of .*seed.*unexpected keyword"),
        (keras.layers.Dense(3), "model must be a keras.Model or a function that builds one"),
        (keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)], name="wide"), "the trunk 'wide' cannot read"),
    ],
    ids=["no seed", "a layer", "another input"],
)
def test_what_is_wrong_with_a_model_is_said_of_the_model(model, message):
    with pytest.raises((TypeError, ValueError), match=message):
        fit(model=model)


def test_it_is_told_where_nothing_will_be_learned(capsys):
    fit(algorithm=krl.DQN(learning_starts=40, replay_size=1000), verbose=2)
    told = "nothing will be learned: DQN(learning_starts=40) begins after that many steps, of 40"
    assert told in capsys.readouterr().out
    fit(algorithm=SMALL_DQN, verbose=2)
    assert "nothing will be learned" not in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["one", "vector"])
def test_an_object_that_is_evaluated_on_too_trains_as_if_it_were_given_once(kind):
    def trained(given_twice):
        env = gymnasium.make("CartPole-v1") if kind == "one" else gymnasium.make_vec("CartPole-v1", num_envs=2)
        eval_env = env if given_twice else None
        return fit(env, eval_env=eval_env, num_envs=None, eval_episodes=2, steps_per_epoch=10)

    once, twice = trained(False), trained(True)
    assert twice.history.history["eval_return"] == once.history.history["eval_return"]
    assert twice.episodes.episode_return == once.episodes.episode_return
    for weight, expected in zip(twice.model.get_weights(), once.model.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, expected)


def test_a_callback_may_evaluate_on_the_object_that_is_trained_on():
    env = gymnasium.make("CartPole-v1")
    evaluate = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: agent.evaluate(env=env, episodes=1))
    agent = fit(env, steps=10, num_envs=None)
    fit(env, agent, steps=300, num_envs=None, steps_per_epoch=15, callbacks=[evaluate])
    lengths = np.array(agent.episodes.episode_length)
    assert lengths.size > 0
    assert lengths.max() <= 15  # each evaluation begins a new episode


def test_what_another_object_was_in_is_forgotten():
    """Two grids of equal shapes: from the one's state an agent would stand in the other's walls."""
    coordinates = {"observation": "coordinates"}
    here, there = (GridWorld(2, task=task, **coordinates) for task in ("simple", "obstacle"))
    agent = fit(here, num_envs=None)
    state = agent.environment_state
    fit(here, agent, num_envs=None, steps=10)
    assert agent.replay_begun_at == (0, 0)
    fit(there, agent, num_envs=None, steps=10)
    assert agent.replay_begun_at == (50, 5)
    assert [x.shape for x in agent.environment_state] == [x.shape for x in state]


def test_a_return_to_stop_at_is_that_of_the_present_environment():
    agent = fit(GRID, steps=10, env_options={"task": "simple"})
    agent.episodes.extend([10] * 100, [500.0] * 100, [1] * 100)
    fit(GRID, agent, steps=40, stop_return=400.0)
    assert agent.steps == 20  # at the first look
    fit(GRID, agent, steps=40, stop_return=400.0, env_options={"task": "obstacle"})
    assert agent.steps == 60


def test_a_rate_that_follows_a_schedule_cannot_be_moved_by_a_callback():
    scheduled = keras.optimizers.Adam(PolynomialDecay(0.01, 100))
    plateau = keras.callbacks.ReduceLROnPlateau(monitor="loss", patience=1)
    with pytest.raises(ValueError, match=r"callbacks: LearningRateScheduler and ReduceLROnPlateau set the learning ra"):
        fit(optimizer=scheduled, callbacks=[plateau])
    agent = fit(optimizer=scheduled)
    with pytest.raises(ValueError, match=r"must then be a number, and the optimizer's follows <keras.*PolynomialDecay"):
        fit(algorithm=agent, callbacks=[plateau])
    fit(algorithm=agent, optimizer=keras.optimizers.Adam(0.01), callbacks=[plateau], steps_per_epoch=10)
    assert agent.steps == 80
    with pytest.raises(ValueError, match="callbacks: LearningRateScheduler and ReduceLROnPlateau"):
        krl.fit_seeds("CartPole-v1", FIVE_STEPS, optimizer=scheduled, callbacks=lambda _: [plateau], steps=10)


def test_a_training_that_is_refused_leaves_the_agent_as_it_was():
    agent = fit(algorithm=SMALL_DQN, in_graph=False)
    optimizer, environment, replay = agent.optimizer, agent.environment, agent.replay
    with pytest.raises(ValueError, match="the stored replay has"):
        fit(algorithm=agent, in_graph=False, num_envs=4, optimizer=keras.optimizers.SGD(0.1))
    assert agent.optimizer is agent.learner.optimizer is agent.model.optimizer is optimizer
    assert agent.environment is environment
    assert agent.replay is replay
