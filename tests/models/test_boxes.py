"""Functions on boxes: conversions, IoU and generalized IoU."""

import torch

from detrkit.ops import boxes

A = torch.tensor([[0.0, 0.0, 10.0, 10.0], [20.0, 20.0, 30.0, 40.0]])
B = torch.tensor([[5.0, 0.0, 15.0, 10.0], [0.0, 0.0, 10.0, 10.0], [50.0, 50.0, 60.0, 60.0]])


def test_overlap_by_hand():
    expected = torch.tensor([[50 / 150, 1.0, 0.0], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(boxes.pairwise_iou(A, B), expected)
    far = -(60 * 60 - 200) / (60 * 60)  # both squares in one of 60 x 60
    torch.testing.assert_close(boxes.pairwise_giou(A, B)[0], torch.tensor([50 / 150, 1.0, far]))
    torch.testing.assert_close(boxes.iou(A, B[:2]), expected.diagonal())
    torch.testing.assert_close(boxes.giou(A, B[:2]), boxes.pairwise_giou(A, B[:2]).diagonal())


def test_formats_by_hand():
    corners = torch.tensor([20.0, 20.0, 30.0, 40.0])
    assert boxes.xyxy_to_cxcywh(corners).tolist() == [25, 30, 10, 20]
    assert boxes.xyxy_to_xywh(corners).tolist() == [20, 20, 10, 20]
    assert boxes.cxcywh_to_xyxy(torch.tensor([25.0, 30, 10, 20])).tolist() == corners.tolist()
    assert boxes.xywh_to_xyxy(torch.tensor([20.0, 20, 10, 20])).tolist() == corners.tolist()
    assert boxes.area(corners) == 200
    assert boxes.area(corners.flip(0)) == 0  # turned inside out


def test_no_boxes_have_no_overlap():
    none = torch.zeros(0, 4)
    assert boxes.pairwise_giou(A, none).shape == (2, 0)
    assert boxes.giou(none, none).shape == (0,)


def test_boxes_without_area_have_finite_overlap_and_gradient():
    points = torch.tensor([[3.0, 3.0, 3.0, 3.0], [3.0, 1.0, 3.0, 9.0], [9.0, 9.0, 1.0, 1.0]], requires_grad=True)
    overlap = boxes.pairwise_giou(points, points)
    overlap.sum().backward()
    assert overlap.isfinite().all()
    assert points.grad.isfinite().all()
