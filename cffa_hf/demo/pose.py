"""The skeleton of a person in one view: a stance or a stride."""

from dataclasses import dataclass

import numpy as np

from cffa_hf.demo.attributes import Attributes, View, side_in_image
from cffa_hf.demo.layers import Point

Pair = tuple[Point, Point]

_WIDTH = {"slim": 0.86, "average": 1.0, "heavy": 1.24}


@dataclass(frozen=True)
class Pose:
    """The joints of a person in body coordinates.

    Of each pair the first is at the image's left, or in side views the one away from the camera. `turn` is the image
    direction the person faces in a side view (-1, 1), else 0. `width` scales the body, `look` turns the face aside.
    """

    turn: int
    back: bool
    width: float
    look: float
    shoulders: Pair
    elbows: Pair
    hands: Pair
    hips: Pair
    knees: Pair
    ankles: Pair


def make_pose(person: Attributes, view: View, rng: np.random.Generator) -> Pose:
    """Draw a stance or a stride, and raise the arm that holds an umbrella."""
    width = _WIDTH[person.build] * (0.93 if person.gender == "woman" else 1.0)
    turn = {"left": -1, "right": 1}.get(view.facing, 0)
    stride = rng.uniform(0.55, 1.0) if view.walking else rng.uniform(0.0, 0.2)
    stride *= 1 if rng.random() < 0.5 else -1
    bend = rng.uniform(0.4, 1.3)
    pose = _side_pose(turn, width, stride, bend) if turn else _frontal_pose(view, width, stride, bend, rng)
    busy = _busy_hand(person, view)
    if person.umbrella:
        index = _holding_hand(busy, rng)
        direction = turn or (-1 if index == 0 else 1)
        elbow = (pose.shoulders[index][0] + 0.02 * direction, 0.36)
        hand = (0.1 * turn if turn else 0.085 * width * direction, 0.27)
        return _with_arm(pose, index, elbow, hand)
    if rng.random() < 0.2:
        # A forearm across the body: a telephone, a hand in the pocket.
        index = _holding_hand(busy, rng)
        elbow = pose.elbows[index]
        inwards = turn or (1 if index == 0 else -1)
        return _with_arm(pose, index, elbow, (elbow[0] + 0.07 * inwards, elbow[1] + rng.uniform(-0.03, 0.07)))
    return pose


def umbrella_hand(pose: Pose) -> Point:
    """Return the raised hand."""
    return min(pose.hands, key=lambda hand: hand[1])


def _side_pose(turn: int, width: float, stride: float, bend: float) -> Pose:
    def pair(y: float, reach: float, ahead: float = 0.0) -> Pair:
        """Place the far and the near joint: legs swing apart, one forward and one back."""
        return (-0.09 * stride * reach + ahead * turn, y), (0.09 * stride * reach + ahead * turn, y)

    ankles = pair(0.95, 1.35, -0.01)
    # The leg behind lifts its heel.
    raised = [(x, y - (0.03 * abs(stride) if x * turn < 0 else 0.0)) for x, y in ankles]
    return Pose(
        turn=turn,
        back=False,
        width=width,
        look=0.0,
        shoulders=((0.0, 0.205), (0.0, 0.205)),
        elbows=pair(0.35, -0.6, -0.012),
        hands=pair(0.48, -1.0, 0.03 * bend),
        hips=((0.0, 0.5), (0.0, 0.5)),
        knees=pair(0.73, 0.75, 0.018 * bend),
        ankles=(raised[0], raised[1]),
    )


def _frontal_pose(view: View, width: float, stride: float, bend: float, rng: np.random.Generator) -> Pose:
    wide, hip = 0.1 * width, 0.05 * width
    left_up, right_up = max(stride, 0.0), max(-stride, 0.0)
    apart = 0.012 if view.walking else rng.uniform(0.0, 0.022)
    out = 0.018 + 0.014 * bend
    swing = 0.03 * stride
    return Pose(
        turn=0,
        back=view.facing == "back",
        width=width,
        look=rng.uniform(-1, 1),
        shoulders=((-wide, 0.205), (wide, 0.205)),
        elbows=((-wide - out, 0.355 - swing * 0.3), (wide + out, 0.355 + swing * 0.3)),
        hands=((-wide - out * 0.6 + swing * 0.4, 0.49 + swing), (wide + out * 0.6 + swing * 0.4, 0.49 - swing)),
        hips=((-hip, 0.5), (hip, 0.5)),
        knees=((-hip - apart, 0.725 - 0.014 * left_up), (hip + apart, 0.725 - 0.014 * right_up)),
        ankles=(
            (-hip * (1 - 0.3 * left_up) - apart * 0.6, 0.952 - 0.055 * left_up),
            (hip * (1 - 0.3 * right_up) + apart * 0.6, 0.952 - 0.055 * right_up),
        ),
    )


def _busy_hand(person: Attributes, view: View) -> int | None:
    """Return the index of the arm on whose side the bag is."""
    if person.bag_side is None:
        return None
    at = side_in_image(person.bag_side, view.facing)
    if at == 0:
        return 1 if person.bag_side == view.facing else 0
    return 0 if at < 0 else 1


def _holding_hand(busy: int | None, rng: np.random.Generator) -> int:
    drawn = int(rng.integers(2))
    return drawn if busy is None else 1 - busy


def _with_arm(pose: Pose, index: int, elbow: Point, hand: Point) -> Pose:
    joints = dict(pose.__dict__)
    for name, point in (("elbows", elbow), ("hands", hand)):
        first, second = joints[name]
        joints[name] = (point, second) if index == 0 else (first, point)
    return Pose(**joints)
