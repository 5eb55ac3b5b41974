"""Reading data beside the imports."""

from __future__ import annotations

import numpy as np
import pytest

from fedhive import config, early
from fedhive.errors import UserError
from fedhive.learning.workbench import Workbench

ROWS = {"_target_": "fedhive.learning.datasets.synthetic", "n": 40, "n_test": 8}


def test_the_data_are_those_that_would_be_loaded_anyway():
    early.load_data(ROWS)
    ready = early.loaded(ROWS)
    plain = config.build(ROWS, "data")
    assert ready is not None
    np.testing.assert_array_equal(ready.x_train, plain.x_train)
    np.testing.assert_array_equal(ready.y_test, plain.y_test)


def test_data_are_handed_out_once_and_only_for_the_same_description():
    early.load_data(ROWS)
    assert early.loaded({**ROWS, "n": 50}) is None
    assert early.loaded(ROWS) is not None
    assert early.loaded(ROWS) is None


def test_data_that_nobody_fetched_are_forgotten():
    early.load_data(ROWS)
    early.load_data({**ROWS, "n": 50})
    assert early.loaded(ROWS) is None


def test_a_failure_is_left_to_whoever_needs_the_data():
    description = {"_target_": "fedhive.learning.datasets.synthetic", "n": -1}
    early.load_data(description)
    assert early.loaded(description) is None
    with pytest.raises(UserError, match="positive sizes"):
        config.build(description, "data")


def test_a_workbench_takes_the_data_on_their_way(tiny):
    cfg = tiny()
    early.load_data(cfg["data"])
    thread = next(iter(early._loads.values()))
    thread.join()
    assert Workbench(config.dumps(cfg)).data is thread.value
