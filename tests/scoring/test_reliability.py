import numpy as np
import pytest

from projects.bioscan_clip.scoring.reliability import (
    coverage_curve,
    expected_calibration_error,
    reliability,
)


def test_reliability_of_a_case_worked_by_hand():
    confidence = np.array([0.15, 0.15, 0.95, 1.0])
    right = np.array([True, False, True, True])
    table = reliability(confidence, right)
    assert table["n"].tolist() == [2, 2]
    assert table["accuracy"].tolist() == [0.5, 1.0]
    assert table["confidence"].tolist() == pytest.approx([0.15, 0.975])
    expected = (abs(0.15 - 0.5) * 2 + abs(0.975 - 1) * 2) / 4
    assert expected_calibration_error(confidence, right) == pytest.approx(expected)


def test_accuracy_against_coverage_of_a_case_worked_by_hand():
    curve = coverage_curve(np.array([0.2, 0.9, 0.6, 0.4]), np.array([False, True, True, False]))
    assert curve["coverage"].tolist() == [0.25, 0.5, 0.75, 1.0]
    assert curve["accuracy"].tolist() == pytest.approx([1, 1, 2 / 3, 0.5])
