"""An evaluation plays whole episodes, as many as were asked for, and counts them as a plain loop would."""

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from kerasrl_pg.envs.vector_adapter import VectorAdapter
from kerasrl_pg.evaluate import evaluate_policy
from tests.contract.counter import Counter, act, counters

MODES = list(AutoresetMode)


def lean(observation):
    """A poor CartPole player: push to where the pole leans."""
    return (observation[:, 2] > 0).astype(np.int64)


def play_in_a_plain_loop(env_id, episodes_of_each, num_envs, seed):
    """Returns and lengths, environment after environment, as Gymnasium's documentation has the loop."""
    returns, lengths = [], []
    for index in range(num_envs):
        environment = gymnasium.make(env_id)
        observation, _ = environment.reset(seed=seed + index)
        for _ in range(episodes_of_each):
            total, length, over = 0.0, 0, False
            while not over:
                observation, reward, terminated, truncated, _ = environment.step(lean(observation[None])[0])
                total, length, over = total + float(reward), length + 1, terminated or truncated
            returns.append(total)
            lengths.append(length)
            observation, _ = environment.reset()
    return returns, lengths


@pytest.mark.parametrize("mode", MODES)
def test_returns_and_lengths_are_those_of_a_plain_loop(mode):
    environment = SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")] * 3, autoreset_mode=mode)
    result = evaluate_policy(lean, VectorAdapter(environment), episodes=12, seed=5)
    returns, lengths = play_in_a_plain_loop("CartPole-v1", 4, 3, seed=5)
    assert result.returns.tolist() == returns
    assert result.lengths.tolist() == lengths
    assert result.mean == pytest.approx(np.mean(returns))
    assert result.std == pytest.approx(np.std(returns))


@pytest.mark.parametrize("mode", MODES)
def test_every_environment_plays_its_share_however_long_its_episodes_are(mode):
    """Phase 0 ends after four steps, the others after five: the first seven to end would be another seven."""
    environment = VectorAdapter(counters(mode))
    result = evaluate_policy(lambda o: act(o, None)[0].numpy(), environment, episodes=7, seed=0)
    assert result.lengths.tolist() == [4, 4, 4, 5, 5, 5, 5]
    assert result.returns.tolist() == [2.0] * 3 + [5.0] * 2 + [6.5] * 2


def test_fewer_episodes_than_environments():
    result = evaluate_policy(
        lambda o: act(o, None)[0].numpy(), VectorAdapter(counters(AutoresetMode.SAME_STEP)), episodes=2, seed=0
    )
    assert result.lengths.tolist() == [4, 5]


@pytest.mark.parametrize("vectorization_mode", ["sync", "vector_entry_point"])
def test_the_same_seed_gives_the_same_episodes_and_another_others(vectorization_mode):
    def play(seed):
        environment = gymnasium.make_vec("CartPole-v1", 4, vectorization_mode=vectorization_mode)
        return evaluate_policy(lean, VectorAdapter(environment), episodes=20, seed=seed)

    first, again, other = play(3), play(3), play(4)
    np.testing.assert_array_equal(first.returns, again.returns)
    np.testing.assert_array_equal(first.lengths, again.lengths)
    assert first.returns.tolist() != other.returns.tolist()
    assert len(first.returns) == 20


def test_an_environment_with_its_own_vector_code_plays_the_same_game():
    """CartPole's NumPy vector form knows NEXT_STEP only: a junk step that counted would show in the lengths."""
    environment = VectorAdapter(gymnasium.make_vec("CartPole-v1", 10, vectorization_mode="vector_entry_point"))
    result = evaluate_policy(lean, environment, episodes=300, seed=0)
    _, lengths = play_in_a_plain_loop("CartPole-v1", 30, 10, seed=0)
    assert result.returns.tolist() == result.lengths.tolist()  # a reward of 1 for each step
    standard_error = np.sqrt(np.var(lengths) / 300 + np.var(result.lengths) / 300)
    assert abs(result.mean - np.mean(lengths)) < 4 * standard_error


def test_the_summary_in_words():
    result = evaluate_policy(
        lambda o: act(o, None)[0].numpy(), VectorAdapter(SyncVectorEnv([lambda: Counter(1)])), episodes=2, seed=0
    )
    assert str(result) == "5.0 ± 0.0 over 2 episodes"


@pytest.mark.parametrize("episodes", [0, -3, 2.0])
def test_a_wrong_number_of_episodes_is_refused(episodes):
    with pytest.raises(ValueError, match=f"episodes must be an integer of at least 1, got {episodes}"):
        evaluate_policy(lean, VectorAdapter(counters(AutoresetMode.SAME_STEP)), episodes=episodes, seed=0)


def test_an_episode_without_an_end_is_an_error_and_not_an_evaluation_for_ever():
    """The cliff walk has no time limit, and who always goes up stays where he is."""
    environment = VectorAdapter(gymnasium.make_vec("CliffWalking-v1", 2, vectorization_mode="sync"))
    with pytest.raises(RuntimeError, match=r"did not end within 1,000 steps \(longest_episode\)"):
        evaluate_policy(lambda o: np.zeros(2, np.int64), environment, episodes=2, seed=0, longest_episode=1_000)


def test_environments_that_played_their_share_may_go_on_without_an_end():
    steps = iter(range(10_000))

    def first_walks_home(observation):  # up, eleven times right, down; the second does nothing
        step = next(steps)
        return np.array([0 if step == 0 else 1 if step < 12 else 2, 0])

    environment = VectorAdapter(gymnasium.make_vec("CliffWalking-v1", 2, vectorization_mode="sync"))
    result = evaluate_policy(first_walks_home, environment, episodes=1, seed=0, longest_episode=13)
    assert result.lengths.tolist() == [13]
    with pytest.raises(RuntimeError, match=r"did not end within 12 steps"):
        evaluate_policy(first_walks_home, environment, episodes=1, seed=0, longest_episode=12)
