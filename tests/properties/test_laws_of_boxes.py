"""Laws of box functions that hold for any boxes."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detrkit.ops import boxes

number = st.floats(-1e4, 1e4, width=32)
side = st.one_of(st.just(0.0), st.floats(0, 1e4, width=32))


@st.composite
def corners(draw, count=None):
    """Boxes [n, 4], some of them without area."""
    rows = [(draw(number), draw(number), draw(side), draw(side)) for _ in range(count or draw(st.integers(1, 4)))]
    return torch.tensor([[x, y, x + w, y + h] for x, y, w, h in rows], dtype=torch.float64)


@settings(deadline=None)
@given(corners(), corners())
def test_overlap_is_bounded_and_symmetric(a, b):
    iou, giou = boxes.pairwise_iou(a, b), boxes.pairwise_giou(a, b)
    assert ((iou >= -1e-9) & (iou <= 1 + 1e-9)).all()
    assert ((giou >= -1 - 1e-9) & (giou <= 1 + 1e-9)).all()
    assert (giou <= iou + 1e-9).all()
    torch.testing.assert_close(giou, boxes.pairwise_giou(b, a).T)


@settings(deadline=None)
@given(corners())
def test_a_box_overlaps_itself(a):
    large = boxes.area(a) > 1e-3
    torch.testing.assert_close(boxes.giou(a, a)[large], torch.ones_like(a[large, 0]))


@settings(deadline=None)
@given(corners(count=3), corners(count=3))
def test_pairwise_holds_the_corresponding_pairs(a, b):
    torch.testing.assert_close(boxes.giou(a, b), boxes.pairwise_giou(a, b).diagonal())
    torch.testing.assert_close(boxes.iou(a, b), boxes.pairwise_iou(a, b).diagonal())


@settings(deadline=None)
@given(corners())
def test_formats_round_trip(a):
    for there, back in (
        (boxes.xyxy_to_cxcywh, boxes.cxcywh_to_xyxy),
        (boxes.xyxy_to_xywh, boxes.xywh_to_xyxy),
    ):
        torch.testing.assert_close(back(there(a)), a)


@settings(deadline=None)
@given(st.lists(st.tuples(number, number, number, number), min_size=1, max_size=4))
def test_even_boxes_turned_inside_out_have_finite_bounded_overlap(rows):
    a = torch.tensor(rows, dtype=torch.float64)
    giou = boxes.pairwise_giou(a, a.flip(0))
    assert giou.isfinite().all()
    assert (giou.abs() <= 1 + 1e-9).all()
