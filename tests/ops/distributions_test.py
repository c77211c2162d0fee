import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
from gymnasium import spaces
from tensorflow_probability import distributions as tfd

from kerasrl_pg import ops

SEED = tf.constant([1, 2])
HUGE = np.finfo(np.float32).max
SPACES = {
    "discrete": spaces.Discrete(3),
    "discrete from -1": spaces.Discrete(3, start=-1),
    "multi-discrete": spaces.MultiDiscrete([2, 5, 1]),
    "multi-discrete matrix": spaces.MultiDiscrete([[2, 3], [4, 5]]),
    "multi-discrete from elsewhere": spaces.MultiDiscrete([2, 5], start=[10, -3]),
    "multi-binary": spaces.MultiBinary(4),
    "multi-binary matrix": spaces.MultiBinary([2, 3]),
    "box": spaces.Box(-1.0, 1.0, [2]),
    "box without dimensions": spaces.Box(0.1, 0.3, []),
    "box matrix": spaces.Box(-2.0, 7.0, [2, 3]),
    "box of float64": spaces.Box(0.1, 0.7, [2], np.float64),
    "box of float16": spaces.Box(-2.0, 0.1, [2], np.float16),
    "box bounded here and there": spaces.Box(
        np.array([-np.inf, -np.inf, 0.5, 0.5], np.float32), np.array([np.inf, 0.1, np.inf, 0.7], np.float32)
    ),
    "box as wide as float32": spaces.Box(-HUGE, HUGE, [2]),
}


DISTRIBUTIONS = [
    "discrete", "multi-discrete", "multi-discrete matrix", "multi-binary matrix", "box without dimensions",
    "box matrix",
]  # fmt: skip
each_distribution = pytest.mark.parametrize("action_space", [SPACES[name] for name in DISTRIBUTIONS], ids=DISTRIBUTIONS)
"""A start, bounds and a type only matter on the way into the environment."""


@pytest.fixture(params=SPACES)
def action_space(request):
    return SPACES[request.param]


def random_parameters(action_space, batch=64, scale=2.0):
    random = np.random.default_rng(0)
    return tf.constant(scale * random.normal(size=[batch, ops.parameter_size(action_space)]), tf.float32)


def gradient(function, x):
    with tf.GradientTape() as tape:
        tape.watch(x)
        output = function(x)
    return tape.gradient(output, x)


@pytest.mark.parametrize(
    ("space", "size"),
    [
        (spaces.Discrete(4, start=7), 4),
        (spaces.MultiDiscrete([[2, 3], [4, 5]]), 14),
        (spaces.MultiBinary([2, 3]), 6),
        (spaces.Box(-1.0, 1.0, [2, 3]), 12),
        (spaces.Box(-1.0, 1.0, []), 2),
    ],
    ids=str,
)
def test_parameter_size(space, size):
    assert ops.parameter_size(space) == size


def test_every_sample_reaches_the_environment_as_a_member_of_its_space(variant, action_space):
    parameters = random_parameters(action_space)

    def act(parameters):
        action = ops.action_distribution(action_space, parameters).sample(seed=SEED)
        return action, ops.to_environment(action_space, action)

    action, for_environment = variant(act)(parameters)
    spec = ops.action_spec(action_space, len(parameters))
    assert (action.shape, action.dtype) == (spec.shape, spec.dtype)
    assert all(action_space.contains(np.asarray(member)) for member in for_environment.numpy())


@each_distribution
def test_every_distribution_gives_one_number_per_state_and_finite_gradients(variant, action_space):
    def log_prob_and_entropy(parameters):
        policy = ops.action_distribution(action_space, parameters)
        return policy.log_prob(policy.sample(seed=SEED)), policy.entropy()

    parameters = random_parameters(action_space)
    with tf.GradientTape() as tape:
        tape.watch(parameters)
        log_prob, entropy = variant(log_prob_and_entropy)(parameters)
    assert log_prob.shape == entropy.shape == [64]
    assert np.isfinite(tape.gradient([log_prob, entropy], parameters)).all()


def test_the_mean_surprise_of_samples_is_the_entropy(action_space):
    # Ties sample, log_prob and entropy together: E[-log π(a)] = H(π).
    parameters = tf.repeat(random_parameters(action_space, batch=1, scale=1.0), 20_000, axis=0)
    policy = ops.action_distribution(action_space, parameters)
    surprise = -policy.log_prob(policy.sample(seed=SEED)).numpy()
    np.testing.assert_allclose(surprise.mean(), policy.entropy()[0], atol=5 * surprise.std() / 20_000**0.5 + 1e-5)


@each_distribution
def test_the_mode_is_the_likeliest_action(variant, action_space):
    def log_probs(parameters):
        policy = ops.action_distribution(action_space, parameters)
        samples = policy.sample(100, seed=SEED)  # [100, B, ...]
        return policy.log_prob(policy.mode()), policy.log_prob(samples)

    of_mode, of_samples = variant(log_probs)(random_parameters(action_space))
    assert np.all(of_mode >= of_samples.numpy() - 1e-5)


def test_mode_has_the_shape_and_type_of_a_sample(action_space):
    policy = ops.action_distribution(action_space, random_parameters(action_space))
    mode, spec = policy.mode(), ops.action_spec(action_space, 64)
    assert (mode.shape, mode.dtype) == (spec.shape, spec.dtype)


@each_distribution
def test_a_sample_is_a_function_of_its_seed(variant, action_space):
    parameters = random_parameters(action_space)
    sample = variant(lambda seed: ops.action_distribution(action_space, parameters).sample(seed=seed))
    np.testing.assert_array_equal(sample(SEED), sample(SEED))
    assert np.any(sample(SEED) != sample(SEED + 1))


def test_discrete_by_hand(variant):
    def numbers(logits, action):
        policy = ops.action_distribution(spaces.Discrete(2), logits)
        return policy.log_prob(action), policy.entropy()

    log_prob, entropy = variant(numbers)(tf.math.log([[1.0, 3.0], [5.0, 5.0]]), tf.constant([1, 0]))
    np.testing.assert_allclose(log_prob, np.log([0.75, 0.5]), rtol=1e-6)
    np.testing.assert_allclose(entropy, [-0.25 * np.log(0.25) - 0.75 * np.log(0.75), np.log(2.0)], rtol=1e-6)


@pytest.mark.parametrize("nvec", [[2, 5, 1, 3], [[2, 3], [3, 2]], [4, 4]], ids=str)
def test_multi_discrete_equals_one_categorical_per_choice(variant, nvec):
    space = spaces.MultiDiscrete(nvec, seed=0)
    parameters = random_parameters(space)
    action = np.stack([space.sample().ravel() for _ in range(64)]).astype(np.int32)  # [B, K]

    def padded(parameters):
        policy = ops.action_distribution(space, parameters)
        return policy.log_prob(action), policy.entropy()

    def separate(parameters):
        choices = [tfd.Categorical(logits=logits) for logits in tf.split(parameters, space.nvec.ravel(), axis=-1)]
        log_probs = [choice.log_prob(action[:, k]) for k, choice in enumerate(choices)]
        return sum(log_probs), sum(choice.entropy() for choice in choices)

    with tf.GradientTape(persistent=True) as tape:
        tape.watch(parameters)
        both = variant(padded)(parameters), separate(parameters)
    for ours, theirs in zip(*both, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
        gradients = tape.gradient(ours, parameters), tape.gradient(theirs, parameters)
        np.testing.assert_allclose(*gradients, rtol=1e-5, atol=1e-6)


def test_multi_discrete_takes_a_matrix_row_by_row():
    space = spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[0, 10], [20, 30]])
    for_environment = ops.to_environment(space, tf.constant([[0, 1, 2, 3]]))
    np.testing.assert_array_equal(for_environment, [[[0, 11], [22, 33]]])


def test_a_policy_that_is_certain_has_no_entropy_and_no_nan(variant):
    space = spaces.MultiDiscrete([2, 4])
    entropy = variant(lambda logits: ops.action_distribution(space, logits).entropy())
    logits = tf.constant([[1e4, -1e4, 1e4, 0.0, 0.0, -1e4]])
    np.testing.assert_array_equal(entropy(logits), [0.0])
    np.testing.assert_array_equal(gradient(entropy, logits), np.zeros([1, 6]))


def test_multi_binary_by_hand(variant):
    def numbers(logits, action):
        policy = ops.action_distribution(spaces.MultiBinary(2), logits)
        return policy.log_prob(action), policy.entropy()

    log_prob, entropy = variant(numbers)(tf.constant([[0.0, np.log(3.0)]]), tf.constant([[1, 0]]))
    np.testing.assert_allclose(log_prob, [np.log(0.5 * 0.25)], rtol=1e-6)
    np.testing.assert_allclose(entropy, [np.log(2.0) - 0.25 * np.log(0.25) - 0.75 * np.log(0.75)], rtol=1e-6)


def test_box_by_hand(variant):
    def numbers(parameters, action):
        policy = ops.action_distribution(spaces.Box(0.0, 10.0, [2]), parameters)
        return policy.log_prob(action), policy.entropy()

    # Means 1 and 2, standard deviations 1 and 2; an action one deviation off in each dimension.
    parameters = tf.constant([[1.0, 2.0, 0.0, np.log(2.0)]])
    log_prob, entropy = variant(numbers)(parameters, tf.constant([[2.0, 0.0]]))
    np.testing.assert_allclose(log_prob, [-1.0 - np.log(2.0) - np.log(2 * np.pi)], rtol=1e-6)
    np.testing.assert_allclose(entropy, [1.0 + np.log(2 * np.pi) + np.log(2.0)], rtol=1e-6)


def test_minus_1_to_1_spans_the_bounds_and_what_is_beyond_is_clipped(variant):
    space = spaces.Box(np.array([0.0, -2.0], np.float32), np.array([10.0, -1.0], np.float32))
    action = tf.constant([[-1.0, -1.0], [0.0, 0.0], [1.0, 1.0], [9.0, -9.0]])
    for_environment = variant(lambda action: ops.to_environment(space, action))(action)
    np.testing.assert_allclose(for_environment, [[0.0, -2.0], [5.0, -1.5], [10.0, -1.0], [10.0, -2.0]])


def test_a_dimension_that_is_not_bounded_on_both_sides_keeps_its_unit(variant):
    space = SPACES["box bounded here and there"]
    action = tf.constant([[50.0] * 4, [-50.0] * 4, [0.0] * 4])
    for_environment = variant(lambda action: ops.to_environment(space, action))(action)
    np.testing.assert_allclose(
        for_environment, [[50.0, 0.1, 50.0, 0.7], [-50.0, -50.0, 0.5, 0.5], [0.0, 0.0, 0.5, 0.6]], rtol=1e-6
    )


def test_the_largest_number_of_a_type_is_no_bound(variant):
    largest = np.finfo(np.float32).max
    space = spaces.Box(np.float32([-largest, -2, -largest]), np.float32([largest, largest, 2]))
    action = tf.constant([[50.0] * 3, [-50.0] * 3])
    for_environment = variant(lambda action: ops.to_environment(space, action))(action)
    np.testing.assert_allclose(for_environment, [[50.0, 50.0, 2.0], [-50.0, -2.0, -50.0]])


@pytest.mark.parametrize("shape", [(0,), (2, 0)])
def test_actions_of_nothing_are_refused(shape):
    with pytest.raises(TypeError, match=r"unsupported action space Box.*Box of one float or more"):
        ops.parameter_size(spaces.Box(-1, 1, shape))


def test_probabilities_are_float32_for_a_model_in_bfloat16(variant):
    logits = tf.constant([[0.1, 0.2, 0.3]], tf.bfloat16)
    probability = variant(lambda x: tf.exp(ops.action_distribution(spaces.Discrete(3), x).log_prob([[0], [1], [2]])))
    np.testing.assert_allclose(tf.reduce_sum(probability(logits)), 1.0, rtol=1e-6)


@pytest.mark.parametrize(
    "space", [spaces.Box(0, 255, [2], np.uint8), spaces.Text(3), spaces.Dict(a=spaces.Discrete(2))], ids=str
)
def test_other_spaces_are_named_with_what_is_supported(space):
    supported = "supported: Discrete, MultiDiscrete, MultiBinary, Box of one float or more"
    for function in (
        lambda: ops.parameter_size(space),
        lambda: ops.action_distribution(space, tf.zeros([1, 2])),
        lambda: ops.action_spec(space, 1),
        lambda: ops.to_environment(space, tf.zeros([1, 2])),
    ):
        with pytest.raises(TypeError, match=f"unsupported action space {type(space).__name__}.*{supported}"):
            function()


def test_a_head_of_the_wrong_size_is_an_error():
    with pytest.raises(ValueError, match=r"parameters must be \[B, 3\] for Discrete\(3\), got shape \(8, 4\)"):
        ops.action_distribution(spaces.Discrete(3), tf.zeros([8, 4]))


def test_epsilon_greedy_takes_any_action_with_probability_epsilon(variant):
    values = tf.constant([[0.0, 3.0, 1.0, -1.0]] * 20_000)
    draw = variant(lambda values, seed: ops.EpsilonGreedy(values, 0.4).sample(seed=seed))
    counts = np.bincount(draw(values, tf.constant([1, 2])).numpy(), minlength=4)
    assert scipy.stats.chisquare(counts, 20_000 * np.array([0.1, 0.7, 0.1, 0.1])).pvalue > 1e-4


def test_the_mode_of_epsilon_greedy_is_the_best_action_even_when_every_action_is_as_probable(variant):
    mode = variant(lambda values: ops.EpsilonGreedy(values, 1.0).mode())
    assert mode(tf.constant([[0.0, 1.0], [2.0, 1.0]])).numpy().tolist() == [1, 0]


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int64])
def test_multi_discrete_of_any_integer_type(dtype):
    space = spaces.MultiDiscrete(np.array([2, 3], dtype), dtype=dtype)
    action = ops.action_distribution(space, tf.constant([[0.0, 9.0, 0.0, 0.0, 9.0]])).mode()
    np.testing.assert_array_equal(action, [[1, 2]])
