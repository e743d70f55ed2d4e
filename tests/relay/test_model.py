"""Random conversations through the relay, compared with direct ones."""

import pytest

from tests.relay.model import Simulation


@pytest.mark.regression(42)
@pytest.mark.adversity
@pytest.mark.parametrize("seed", range(60))
def test_everybody_gets_what_a_direct_connection_gives(relay, seed):
    Simulation(seed, relay).run()
