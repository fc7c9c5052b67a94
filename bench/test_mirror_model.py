"""The model of many mirrors agrees with the measurements of one, and never hands out more than there is."""

import json

import numpy as np
import pytest

from bench.mirror_model import CASES, FIGURES, FPS, Fleet, costs, fair_rates, simulate, streams


def test_the_model_of_a_saturated_link_matches_the_measurement() -> None:
    figures = json.loads(FIGURES.read_text())
    found = simulate(Fleet(hosts=2, cameras=1, copies=1, network_bits_s=40e6, cores=2), costs(figures)["mjpg"])
    measured = figures["runs"]["slow"]["mirror, MJPG"]
    assert found.fps == pytest.approx(measured["fps"], rel=0.15)
    assert found.age_s * 1e3 == pytest.approx(measured["p50"], rel=0.25)
    assert found.first == "network out"


@pytest.mark.parametrize(("fleet", "codec"), [(fleet, codec) for _, fleet, codec in CASES])
def test_each_copy_is_on_another_host_and_copies_are_spread_evenly(fleet: Fleet, codec: str) -> None:
    origin, target = streams(fleet)
    assert len(origin) == fleet.hosts * fleet.cameras * fleet.copies
    assert not (origin == target).any()
    assert np.ptp(np.bincount(origin, minlength=fleet.hosts)) == 0
    assert np.ptp(np.bincount(target, minlength=fleet.hosts)) == 0


def test_a_scarce_resource_is_used_up_and_shared_equally_by_those_that_need_it() -> None:
    use = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 5.0]])
    rates = fair_rates(use, np.array([30.0, 10.0]), FPS)
    assert rates == pytest.approx([85 / 6, 85 / 6, 10 / 6, 10 / 6])
    assert use.T @ rates == pytest.approx([30.0, 10.0])
