"""The numbers of the EKF's parameter file, in an EKF written down here as robot_localization's sources have it.

A constant-velocity model in the plane; a measurement beyond the rejection threshold in Mahalanobis distance is dropped.
What this shows is that prior, process noise and threshold go together, not that robot_localization runs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from ros_support import ROOT

#: x, y, yaw, vx, vy, vyaw among the fifteen.
KEPT = np.ix_([0, 1, 5, 6, 7, 11], [0, 1, 5, 6, 7, 11])
PERIOD_S = 0.05
PLACE, SPEED = np.eye(6)[:3], np.eye(6)[3:]


def _wrapped(angle: float) -> float:
    return (angle + np.pi) % (2 * np.pi) - np.pi


class Ekf:
    """State and covariance."""

    def __init__(self) -> None:
        given = yaml.safe_load((ROOT / "config" / "ros" / "ekf_pose.yaml").read_text())["/**"]["ros__parameters"]
        self.state = np.zeros(6)
        self.covariance = np.reshape(given["initial_estimate_covariance"], (15, 15)).astype(float)[KEPT]
        self.noise = np.reshape(given["process_noise_covariance"], (15, 15)).astype(float)[KEPT]
        self.threshold = given["pose0_rejection_threshold"]

    def predict(self) -> None:
        _, _, yaw, forward, left, turn = self.state
        cosine, sine = np.cos(yaw), np.sin(yaw)
        step = np.array([cosine * forward - sine * left, sine * forward + cosine * left, turn]) * PERIOD_S
        jacobian = np.eye(6)
        jacobian[:2, 3:5] = np.array([[cosine, -sine], [sine, cosine]]) * PERIOD_S
        jacobian[:2, 2] = -step[1], step[0]
        jacobian[2, 5] = PERIOD_S
        self.state[:3] += step
        self.covariance = jacobian @ self.covariance @ jacobian.T + self.noise * PERIOD_S

    def correct(self, observed: NDArray, value: NDArray, sigmas: NDArray, threshold: float = np.inf) -> bool:
        """Whether the measurement was taken."""
        innovation = value - observed @ self.state
        if observed is PLACE:
            innovation[2] = _wrapped(innovation[2])
        noise = np.diag(np.square(sigmas))
        inverse = np.linalg.inv(observed @ self.covariance @ observed.T + noise)
        if np.sqrt(innovation @ inverse @ innovation) >= threshold:
            return False
        gain = self.covariance @ observed.T @ inverse
        self.state = self.state + gain @ innovation
        rest = np.eye(6) - gain @ observed
        self.covariance = rest @ self.covariance @ rest.T + gain @ noise @ gain.T
        return True


@dataclass(frozen=True)
class Fused:
    """What came out of a drive: poses that were taken and dropped, right and wrong ones, and errors in metres."""

    right_taken: int
    right_dropped: int
    wrong_taken: int
    wrong_dropped: int
    errors_m: NDArray[np.float64]


def drive(seed: int, wrong_share: float, silence_s: tuple[float, float]) -> Fused:
    """120 s at 8 m/s: odometry at 20 Hz with a scale error of 2 %, two poses a second with 3 m and 6 degrees."""
    random, ekf = np.random.default_rng(seed), Ekf()
    truth, scale = np.array([5000.0, -3000.0, random.uniform(-np.pi, np.pi)]), 1 + random.normal(0, 0.02)
    counts, errors = np.zeros((2, 2), int), []
    place_sigmas, speed_sigmas = np.array([3.0, 3.0, np.radians(6)]), np.array([0.05, 0.02, 0.01])
    for number in range(int(120 / PERIOD_S)):
        time_s = number * PERIOD_S
        turn = 0.2 * np.sin(time_s / 7)
        truth += np.array([8.0 * np.cos(truth[2]), 8.0 * np.sin(truth[2]), turn]) * PERIOD_S
        ekf.predict()
        ekf.correct(SPEED, np.array([8.0 * scale, 0.0, turn]) + random.normal(0, speed_sigmas), speed_sigmas)
        if number % 10 == 9 and time_s > 3 and not silence_s[0] < time_s < silence_s[1]:
            is_wrong = random.random() < wrong_share and number > 100
            pose = truth + random.normal(0, place_sigmas)
            pose[:2] += random.uniform(100, 400, 2) * is_wrong
            counts[int(is_wrong), int(ekf.correct(PLACE, pose, place_sigmas, ekf.threshold))] += 1
        if time_s > 10:
            errors.append(np.hypot(*(ekf.state[:2] - truth[:2])))
    assert np.linalg.eigvalsh(ekf.covariance).min() > 0
    (right_dropped, right_taken), (wrong_dropped, wrong_taken) = counts.tolist()
    return Fused(right_taken, right_dropped, wrong_taken, wrong_dropped, np.array(errors))


@pytest.mark.parametrize("seed", range(3))
def test_the_ekf_starts_kilometres_away_drops_wrong_poses_and_comes_back_after_a_tunnel(seed: int) -> None:
    fused = drive(seed, wrong_share=0.05, silence_s=(60.0, 90.0))
    assert fused.right_dropped == 0 and fused.right_taken > 150
    assert fused.wrong_taken == 0 and fused.wrong_dropped > 0
    assert np.median(fused.errors_m) < 4 and fused.errors_m.max() < 40
