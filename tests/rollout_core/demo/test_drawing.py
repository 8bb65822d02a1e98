import math

import torch

from rollout_core.demo.drawing import axis, look_at, paint
from rollout_core.demo.layout import Things
from rollout_core.demo.sprites import REACH


def disc(radius: float, *, y: float, x: float, mirror: float = 1.0) -> Things:
    """Return one white thing in one scene of two frames; its left half is transparent."""
    side = 96
    texture = torch.ones(1, 1, 5, side, side)
    texture[..., : side // 2] = 0
    return Things(
        place=torch.tensor([y, x]).expand(1, 1, 2, 2),
        radius=torch.full((1, 1, 2), radius),
        texture=texture,
        tilt=torch.zeros(1, 1),
        mirror=torch.full((1, 1), mirror),
    )


def painted(things: Things, camera: tuple[float, float] = (0.0, 0.0)) -> torch.Tensor:
    """Return a canvas of 2 frames, 40 × 60 pixels, with two masks; the thing is of the first."""
    canvas = torch.zeros(1, 2, 40, 60, 5)
    canvas[..., 4] = 1
    paint(canvas, things, 0, torch.tensor(camera).expand(1, 2, 2), act=0)
    return canvas


def test_thing_is_painted_at_its_place():
    canvas = painted(disc(0.2, y=-0.5, x=0.5))
    # The middle is at row 10 and column 40, the reach is 0.3 half-heights or 6 pixels.
    assert (canvas[0, :, 5:15, 41:45, :4] == 1).all()
    assert canvas[0, :, :, :39, :4].sum() == 0
    assert canvas[0, :, 17:, :, :4].sum() == 0
    assert (canvas[..., 3] + canvas[..., 4] == 1).all()  # it hides the other act
    area = 20 * 20 * (2 * 0.2 * REACH) ** 2 / 2
    assert math.isclose(canvas[0, 0, :, :, 3].sum().item(), area, rel_tol=0.1)


def test_mirrored_thing_and_moved_camera():
    canvas = painted(disc(0.2, y=-0.5, x=0.5, mirror=-1.0), camera=(-0.5, 0.5))
    assert (canvas[0, :, 15:25, 25:29, :4] == 1).all()
    assert canvas[0, :, :, 31:, :4].sum() == 0


def test_thing_outside_the_frame_and_missing_thing_leave_no_trace():
    for things in (disc(0.2, y=3.0, x=0.0), disc(0.0, y=0.0, x=0.0)):
        canvas = painted(things)
        assert canvas[..., :4].sum() == 0
        assert (canvas[..., 4] == 1).all()


def test_camera_sees_a_part_of_the_picture():
    picture = torch.arange(8 * 10.0).reshape(1, 1, 8, 10)
    seen = look_at(picture, torch.tensor([[[0.0, 0.0], [0.5, -0.5]]]), 4, 6)
    assert seen.shape == (1, 1, 2, 4, 6)
    torch.testing.assert_close(seen[0, 0, 0], picture[0, 0, 2:6, 2:8])
    torch.testing.assert_close(seen[0, 0, 1], picture[0, 0, 3:7, 1:7])
    outside = look_at(picture, torch.tensor([[[9.0, 0.0]]]), 4, 6)
    assert (outside == 0).all()


def test_axis_holds_the_middles_of_pixels():
    assert axis(4, 1.0).tolist() == [-0.75, -0.25, 0.25, 0.75]
