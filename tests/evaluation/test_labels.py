from __future__ import annotations

import numpy as np

from dcp_deploy.evaluation.labels import Row, labelled_page

GAP = 2  # between images of up to 64 px


def tiles(*values: int, side: int = 64) -> np.ndarray:
    return np.stack([np.full((side, side, 3), value, np.uint8) for value in values])


def dark(part: np.ndarray) -> int:
    return int((part < 128).all(axis=2).sum())


def test_images_stay_as_they_are_between_the_words() -> None:
    page = labelled_page([Row(tiles(10, 20), ["seed 1", "seed 2"], "psi 0.5"), Row(tiles(30, 40), (), "psi 1")])
    top, margin = page.shape[0] - 2 * 64 - GAP, page.shape[1] - 2 * 64 - GAP
    assert 0 < top < 32 and 0 < margin < 64
    np.testing.assert_array_equal(page[top : top + 64, margin : margin + 64], 10)
    np.testing.assert_array_equal(page[-64:, -64:], 40)
    above, left = page[:top, margin:], page[top:, :margin]
    assert dark(above[:, :64]) and dark(above[:, -64:]) and dark(left[:64]) and dark(left[-64:])
    assert (page[:top, :margin] == 255).all()


def test_images_are_apart_in_both_directions() -> None:
    page = labelled_page([Row(tiles(10, 20)), Row(tiles(30, 40))])
    assert page.shape == (128 + GAP, 128 + GAP, 3)
    assert (page[64 : 64 + GAP] == 255).all() and (page[:, 64 : 64 + GAP] == 255).all()


def test_without_words_there_are_no_margins_and_a_short_row_ends_in_white() -> None:
    page = labelled_page([Row(tiles(10, 20)), Row(tiles(30))])
    assert page.shape == (128 + GAP, 128 + GAP, 3)
    assert (page[64:, 64:] == 255).all()


def test_a_text_that_is_wider_than_its_image_widens_the_columns() -> None:
    page = labelled_page([Row(tiles(10, 20, side=16), ["seed 4294967295", ""])])
    cell = (page.shape[1] - GAP) // 2
    assert cell > 16
    above, images = page[:-16], page[-16:]
    assert dark(above[:, :cell]) and not dark(above[:, cell:])
    assert (above[:, [0, cell - 1]] == 255).all()  # the text is whole
    start = (cell - 16) // 2
    np.testing.assert_array_equal(images[:, start : start + 16], 10)
    np.testing.assert_array_equal(images[:, cell + GAP + start : cell + GAP + start + 16], 20)


def test_a_text_of_two_lines_is_whole_beside_small_images() -> None:
    page = labelled_page(
        [Row(tiles(10, side=16), (), "class 3\npsi 0.7"), Row(tiles(20, side=16), (), "class 4\npsi 0.7")]
    )
    tall = (page.shape[0] - GAP) // 2
    assert tall > 20
    left = page[:, :-16]
    assert dark(left[:tall]) and dark(left[tall:]) and (left[[0, tall - 1, tall + GAP, -1]] == 255).all()
    start = (tall - 16) // 2
    np.testing.assert_array_equal(page[start : start + 16, -16:], 10)


def test_words_grow_with_the_images() -> None:
    small, large = (labelled_page([Row(tiles(10, side=side), ["seed 1"])]) for side in (64, 512))
    assert large.shape[0] - 512 > 2 * (small.shape[0] - 64)
