"""Screens made small: the mean of the area that a small pixel covers, to the byte, wherever it is computed."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from kerasrl_pg.envs.atari import AtariProtocol, make_atari, make_atari_screens
from kerasrl_pg.frames import area_weights, crop_and_resize
from kerasrl_pg.models.preprocessing import CropAndResize

PONG = (14, 196, 8, 159)
"""The field and the lower edge of the score: rows 14 to 195, columns 8 to the last but one."""


@pytest.fixture(scope="module")
def screens():
    """[25, 2, 210, 160]: stacks of real ones from Pong, in different games and moments."""
    games = make_atari_screens("ALE/Pong-v5", 5, AtariProtocol(), stack=2)
    games.reset(seed=3)
    random = np.random.default_rng(3)
    seen = [games.step(random.integers(0, 6, 5))[0].copy() for _ in range(60)]
    games.close()
    return np.concatenate(seen[10::10])


def naive(frame, size):
    """Rows enlarged so that both grids fit, then the mean of each block; columns likewise: slow, and by no formula."""
    for _ in range(2):
        height, width = frame.shape
        frame = frame.astype(np.float64).repeat(size, axis=0).reshape(size, height, width).mean(axis=1).T
    return frame  # [size, size]


@given(st.integers(1, 60), st.data())
def test_every_pixel_is_used_up_and_every_small_pixel_is_filled(length, data):
    small = data.draw(st.integers(1, length))
    weights = area_weights(length, small)
    np.testing.assert_array_equal(weights.sum(axis=0), small)
    np.testing.assert_array_equal(weights.sum(axis=1), length)


def test_a_cut_frame_is_the_naive_cut_and_mean(screens):
    for screen in screens[::7, 0]:
        small = crop_and_resize(screen, PONG, 84)
        np.testing.assert_allclose(small, naive(screen[14:196, 8:-1], 84), atol=0.5 + 1e-4)  # rounded


def test_it_is_what_pillows_box_filter_makes(screens):
    for screen in screens[::7, 0]:
        box = Image.fromarray(screen[14:196, 8:-1]).resize((84, 84), Image.Resampling.BOX)
        difference = np.abs(crop_and_resize(screen, PONG, 84).astype(int) - np.asarray(box))
        assert difference.mean() < 1  # Pillow's box takes each pixel wholly or not at all


@pytest.mark.parametrize("size", [84, 36])
def test_without_a_crop_it_is_ale_pys_own_to_the_byte(size):
    protocol = AtariProtocol(size=size, stack=1)
    own, whole = make_atari("ALE/Breakout-v5", 3, protocol), make_atari_screens("ALE/Breakout-v5", 3, protocol)
    small, screen = own.reset(seed=1)[0], whole.reset(seed=1)[0]
    random = np.random.default_rng(0)
    for _ in range(50):
        np.testing.assert_array_equal(crop_and_resize(screen, None, size), small)
        action = random.integers(0, 4, 3)
        small, screen = own.step(action)[0], whole.step(action)[0]


@pytest.mark.parametrize("crop", [PONG, None])
def test_the_layer_gives_the_same_bytes_compiled_or_not_and_in_any_precision(screens, crop):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        layer = CropAndResize(84, crop)
    finally:
        keras.config.set_dtype_policy("float32")
    expected = crop_and_resize(screens, crop, 84)
    assert expected.shape == (25, 2, 84, 84)
    np.testing.assert_array_equal(layer(screens), expected)
    model = keras.Sequential([keras.Input(screens.shape[1:], dtype="uint8"), layer])
    np.testing.assert_array_equal(model.predict_on_batch(screens), expected)
    again = CropAndResize.from_config(layer.get_config())
    np.testing.assert_array_equal(again(screens), expected)


def test_the_edges_of_a_crop_may_be_numpys_integers():
    frame = np.random.default_rng(0).integers(0, 256, (210, 160), np.uint8)
    np.testing.assert_array_equal(crop_and_resize(frame, tuple(np.array(PONG)), 84), crop_and_resize(frame, PONG, 84))


def test_bad_crops_and_sizes_are_named():
    frame = np.zeros((210, 160), np.uint8)
    for crop in ((14, 196, 8, 161), (14, 90, 8, 159), (-1, 196, 8, 159), (14, 196, 8), (14.0, 196, 8, 159)):
        with pytest.raises(ValueError, match=r"crop must be .* within 210 x 160 pixels and at least 84 apart, got"):
            crop_and_resize(frame, crop, 84)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a length of 3 pixels can be made one of 1 to 3, got 4"):
        area_weights(3, 4)
