"""Swaps of made pictures, where the right answer is known."""

import cv2
import numpy as np
import pytest

from robust.data.face_swap import (
    METHODS,
    OUTLINE,
    TEMPLATE,
    FaceShape,
    align_face,
    detail,
    feathered,
    fit_affine,
    match_colour,
    match_sharpness,
    place_outline,
    swap_faces,
    transform,
)
from robust.data.poisson import poisson_blend

SIZE = 160
SHAPE = FaceShape(OUTLINE, 6.0)


def texture(seed: int, smooth: float = 3.0, low: int = 60, high: int = 200) -> np.ndarray:
    """(SIZE, SIZE, 3) uint8: smooth noise stretched to [low, high]."""
    noise = np.random.default_rng(seed).standard_normal((SIZE, SIZE, 3)).astype(np.float32)
    noise = cv2.GaussianBlur(noise, (0, 0), smooth)
    noise = (noise - noise.min()) / (noise.max() - noise.min())
    return (low + noise * (high - low)).astype(np.uint8)


def landmarks_at(scale: float = 1.0, angle: float = 0.0, middle=(80.0, 80.0)) -> np.ndarray:
    """(5, 2) a frontal face, turned in the picture plane by `angle` degrees."""
    turn = np.radians(angle)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return (TEMPLATE - (56, 70)) @ (scale * rotation).T + middle


def swap(frame, landmarks, source, source_landmarks, method):
    result = swap_faces(frame[None], landmarks[None], source[None], source_landmarks[None], method=method, shape=SHAPE)
    return result[0]


def test_an_affine_map_is_found_exactly():
    matrix = np.array([[0.8, -0.3, 12.0], [0.25, 1.1, -7.0]])
    assert np.allclose(fit_affine(TEMPLATE, transform(matrix, TEMPLATE)), matrix, atol=1e-4)


def test_the_source_lands_on_the_target_landmarks():
    source_landmarks, landmarks = landmarks_at(1.2, -10, (70, 85)), landmarks_at(0.9, 15, (90, 75))
    for point in range(5):  # one bright spot at a time
        source = np.zeros((SIZE, SIZE, 3), np.uint8)
        cv2.circle(source, tuple(int(v * 16) for v in source_landmarks[point]), 3 * 16, (255, 255, 255), -1, shift=4)
        face = align_face(texture(0), landmarks, source, source_landmarks, SHAPE).face[..., 0].astype(float)
        ys, xs = np.mgrid[:SIZE, :SIZE]
        near = np.hypot(xs - landmarks[point, 0], ys - landmarks[point, 1]) < 12  # without its mirror image far off
        face = face * near
        centre = np.array([(face * xs).sum(), (face * ys).sum()]) / face.sum()
        assert np.abs(centre - landmarks[point]).max() < 0.7


@pytest.mark.parametrize("method", METHODS)
def test_a_face_swapped_with_itself_stays_as_it_was(method):
    frame, landmarks = texture(1), landmarks_at()
    swapped = swap(frame, landmarks, frame, landmarks, method).astype(int)
    assert np.abs(swapped - frame).max() <= 4


@pytest.mark.parametrize("method", METHODS)
def test_only_the_face_changes(method):
    frame, source, landmarks = texture(2), texture(3), landmarks_at(0.9, 8)
    mask = align_face(frame, landmarks, source, landmarks_at(), SHAPE).mask > 0
    swapped = swap(frame, landmarks, source, landmarks_at(), method)
    assert 0.1 < mask.mean() < 0.5
    assert np.array_equal(swapped[~mask], frame[~mask])
    assert np.abs(swapped[mask].astype(int) - frame[mask]).mean() > 10


def test_coarse_is_the_warped_face_up_to_a_hard_edge():
    frame, source, landmarks = texture(2), texture(3), landmarks_at(0.9, 8)
    aligned = align_face(frame, landmarks, source, landmarks_at(), SHAPE)
    swapped = swap(frame, landmarks, source, landmarks_at(), "coarse")
    assert np.array_equal(swapped[aligned.mask > 0], aligned.face[aligned.mask > 0])


def test_the_seam_gets_smaller_from_kind_to_kind():
    # the source is the target itself under another light that changes across the face, so that a seam is all there is
    frame, landmarks = texture(4, low=90, high=160), landmarks_at()
    source = np.clip(frame + 30 + np.linspace(-25, 25, SIZE)[None, :, None], 0, 255).astype(np.uint8)
    mask = align_face(frame, landmarks, source, landmarks, SHAPE).mask
    edge = cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    seam = {}
    for method in METHODS:
        change = swap(frame, landmarks, source, landmarks, method).astype(np.float32) - frame
        steps = np.abs(np.gradient(change.mean(2))[0]) + np.abs(np.gradient(change.mean(2))[1])
        seam[method] = float(steps[edge].mean())
    assert seam["coarse"] > 4 * seam["blended"] > 0
    assert seam["blended"] > seam["fine"]


def test_colour_match_takes_over_mean_and_deviation():
    frame, face = texture(5, low=90, high=170), texture(6, low=60, high=140)
    mask = align_face(frame, landmarks_at(), face, landmarks_at(), SHAPE).mask
    matched = match_colour(face, frame, mask)
    as_lab = [cv2.cvtColor(i.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[mask > 0] for i in (matched, frame)]
    assert np.allclose(as_lab[0].mean(0), as_lab[1].mean(0), atol=0.5)
    assert np.allclose(as_lab[0].std(0), as_lab[1].std(0), rtol=0.1)


def test_sharpness_is_matched_to_the_target():
    sharp, landmarks = texture(7, smooth=1.0), landmarks_at()
    soft = cv2.GaussianBlur(sharp, (0, 0), 1.0)
    mask = cv2.erode(align_face(soft, landmarks, sharp, landmarks, SHAPE).mask, np.ones((21, 21), np.uint8)) > 0
    wanted, before = detail(soft)[mask].std(), detail(sharp)[mask].std()
    fine = detail(swap(soft, landmarks, sharp, landmarks, "fine"))[mask].std()
    blended = detail(swap(soft, landmarks, sharp, landmarks, "blended"))[mask].std()
    assert before > 1.5 * wanted  # there was something to match
    assert abs(fine / wanted - 1) < 0.2 < abs(blended / wanted - 1)


def test_detail_scales_as_asked():
    image = texture(8, smooth=1.0, low=90, high=160)
    assert detail(match_sharpness(image, 0.5)).std() < detail(image).std() < detail(match_sharpness(image, 1.5)).std()
    assert np.array_equal(match_sharpness(image, 1.0), image)


def test_a_feathered_mask_is_zero_outside_and_one_deep_inside():
    mask = align_face(texture(0), landmarks_at(), texture(1), landmarks_at(), SHAPE).mask
    weights = feathered(mask, 8)
    distance = cv2.distanceTransform(mask, cv2.DIST_L2, 5)
    assert weights[mask == 0].max() < 0.03
    assert weights[distance > 12].min() > 0.99
    assert weights.min() >= 0 and weights.max() <= 1


def test_the_hidden_side_of_a_turned_head_is_drawn_in():
    landmarks = landmarks_at()
    frontal = place_outline(OUTLINE, landmarks)
    landmarks[2, 0] += 8  # the nose points to the right
    turned = place_outline(OUTLINE, landmarks)
    assert turned[:, 0].max() < frontal[:, 0].max() - 10
    assert np.allclose(turned[OUTLINE[:, 0] == 56], frontal[OUTLINE[:, 0] == 56], atol=1e-3)  # not the middle


def test_background_of_the_source_stays_out():
    # A source whose picture ends beside the mouth: nothing mirrored may come into the fake.
    frame, source_landmarks = texture(9), landmarks_at(1.0, 0, (20, 80))
    source = np.full((SIZE, SIZE, 3), 255, np.uint8)
    aligned = align_face(frame, landmarks_at(), source, source_landmarks, SHAPE)
    to_target = fit_affine(source_landmarks, landmarks_at())
    left_edge = transform(to_target, np.array([[0.0, 80.0]]))[0, 0]
    assert aligned.mask[:, : int(left_edge)].max() == 0 and aligned.mask.any()


def test_one_photograph_follows_all_frames_and_a_clip_goes_along():
    frames = np.stack([texture(1)] * 3)
    moving = np.stack([landmarks_at(1, 0, (75 + 5 * i, 80)) for i in range(3)])
    sources = np.stack([np.full((SIZE, SIZE, 3), value, np.uint8) for value in (20, 120, 240)])
    places = np.stack([landmarks_at()] * 3)
    swapped = swap_faces(frames, moving, sources, places, method="coarse", shape=SHAPE)
    assert [int(frame[80, 80, 0]) for frame in swapped] == [20, 120, 240]
    one = swap_faces(frames, moving, sources[:1], places[:1], method="coarse", shape=SHAPE)
    middles = [np.argwhere((frame == 20).all(2)).mean(0)[1] for frame in one]
    assert np.allclose(np.diff(middles), 5, atol=0.3)


def test_shapes_differ_from_fake_to_fake_but_stay_on_the_face():
    shapes = [FaceShape.jittered(np.random.default_rng(seed)) for seed in range(20)]
    moved = np.stack([shape.outline for shape in shapes]) - OUTLINE
    assert 0.5 < np.abs(moved).mean() < 4 and np.abs(moved).max() < 12
    again = FaceShape.jittered(np.random.default_rng(3))
    assert np.array_equal(again.outline, shapes[3].outline)


def test_poisson_keeps_the_gradients_of_the_face_and_meets_the_frame():
    frame, face = texture(10), texture(11)
    mask = align_face(frame, landmarks_at(), face, landmarks_at(), SHAPE).mask
    result = poisson_blend(face, frame, mask)
    inside = cv2.erode(mask, np.ones((3, 3), np.uint8)) > 0
    curvature = [cv2.Laplacian(image.astype(np.float64), cv2.CV_64F, ksize=1)[inside] for image in (result, face)]
    assert np.abs(curvature[0] - curvature[1]).max() < 0.01
    assert np.array_equal(result[mask == 0], frame[mask == 0].astype(np.float32))


def test_poisson_does_not_bleed_more_than_allowed():
    frame, face = np.zeros((SIZE, SIZE, 3), np.uint8), np.full((SIZE, SIZE, 3), 200, np.uint8)
    mask = align_face(frame, landmarks_at(), face, landmarks_at(), SHAPE).mask
    assert np.allclose(poisson_blend(face, frame, mask)[mask > 0], 0, atol=1e-3)
    assert np.allclose(poisson_blend(face, frame, mask, max_step=40)[mask > 0], 160, atol=1e-3)
