"""The promise of the README: CartPole is solved, and how well."""

import pytest

import kerasrl_pg as krl


def evaluation_after_100_000_steps(seed: int) -> krl.Evaluation:
    agent = krl.fit_agent("CartPole-v1", "ppo", steps=100_000, seed=seed, verbose=0)
    return agent.evaluate(episodes=100, seed=seed)


def test_ppo_solves_cartpole_in_100_000_steps():
    assert evaluation_after_100_000_steps(seed=0).mean >= 475.0


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 5))
def test_ppo_does_not_drop_the_pole_once_in_100_episodes(seed):
    assert evaluation_after_100_000_steps(seed).mean == 500.0
