from __future__ import annotations

import numpy as np

from dcp_deploy.evaluation.labels import Row, labelled_page


def tiles(*values: int, side: int = 64) -> np.ndarray:
    return np.stack([np.full((side, side, 3), value, np.uint8) for value in values])


def dark(part: np.ndarray) -> int:
    return int((part < 128).all(axis=2).sum())


def test_images_stay_as_they_are_between_the_words() -> None:
    page = labelled_page([Row(tiles(10, 20), ["seed 1", "seed 2"], "psi 0.5"), Row(tiles(30, 40), (), "psi 1")])
    top, margin = page.shape[0] - 2 * 64, page.shape[1] - 2 * 64
    assert 0 < top < 32 and 0 < margin < 64
    np.testing.assert_array_equal(page[top : top + 64, margin : margin + 64], 10)
    np.testing.assert_array_equal(page[top + 64 :, margin + 64 :], 40)
    above, left = page[:top, margin:], page[top:, :margin]
    assert dark(above[:, :64]) and dark(above[:, 64:]) and dark(left[:64]) and dark(left[64:])
    assert (page[:top, :margin] == 255).all()


def test_without_words_there_are_no_margins_and_a_short_row_ends_in_white() -> None:
    page = labelled_page([Row(tiles(10, 20)), Row(tiles(30))])
    assert page.shape == (128, 128, 3)
    assert (page[64:, 64:] == 255).all()


def test_a_text_that_is_too_wide_does_not_reach_the_next_column() -> None:
    wide = labelled_page([Row(tiles(10, 20, side=16), ["seed 4294967295", ""])])
    assert dark(wide[:-16, :16]) and not dark(wide[:-16, 16:])


def test_words_grow_with_the_images() -> None:
    small, large = (labelled_page([Row(tiles(10, side=side), ["seed 1"])]) for side in (64, 512))
    assert large.shape[0] - 512 > 2 * (small.shape[0] - 64)
