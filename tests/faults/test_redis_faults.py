"""Redis in every trouble there is a word for, with publishers, a subscriber and a reader at work all the time.

In each: /status says what is wrong in words, publishers and readers go on, a clean stop works, the log says it once;
and when it is over everything has arrived, once and in order.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.faults.redis_faults import DURABLE, LASTING, PASSING, Fault
from tests.faults.scene import Scene, a_scene
from tests.redis_servers import eventually


def suffer(scene: Scene, fault: Fault) -> None:
    """Go through one trouble, looking at all that is promised while it is there."""
    with scene.recovery(fault.name), fault.inject(scene):
        if fault.reason:
            scene.shows(fault.reason, fault.words)
        scene.goes_on()
        scene.restarts()
        if fault.reason:
            scene.shows(fault.reason, fault.words)
            eventually(scene.complaints, "the log says it")
        scene.goes_on()
        assert max(scene.complaints().values(), default=0) <= 1


@pytest.mark.parametrize("fault", LASTING, ids=lambda fault: fault.name)
def test_it_is_told_holds_up_nobody_and_loses_and_doubles_nothing(
    tmp_path: Path, fault: Fault, tell: Callable[..., None]
) -> None:
    with a_scene(tmp_path, *DURABLE) as scene:
        suffer(scene, fault)
        scene.calm()
        tell(**scene.figures(scene.judge()))


def test_what_passes_by_itself_loses_and_doubles_nothing(tmp_path: Path, tell: Callable[..., None]) -> None:
    with a_scene(tmp_path, *DURABLE) as scene:
        for fault in PASSING:
            with scene.recovery(fault.name), fault.inject(scene):
                scene.goes_on()
        scene.calm()
        tell(**scene.figures(scene.judge()))


@pytest.mark.soak
def test_all_of_them_one_after_the_other_in_any_order(tmp_path: Path, tell: Callable[..., None]) -> None:
    seed = time.time_ns()
    print(f"seed {seed}")  # for a run that fails
    dice = random.Random(seed)
    with a_scene(tmp_path, *DURABLE) as scene:
        for _ in range(100):
            suffer(scene, dice.choice([*LASTING, *PASSING]))
        scene.calm()
        tell(seed=seed, rounds=100, **scene.figures(scene.judge()))
