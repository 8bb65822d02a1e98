"""The names that the service accepts are those that the renderer accepts."""

import pytest
from cmap import Catalog

from rollout_core.colormaps import colormap_names, is_colormap, suggest_colormap
from rollout_core.contract import Overlay
from rollout_core.errors import InvalidRequest
from rollout_core.pictures.heat import check_colormap


def renders(name):
    try:
        check_colormap(name)
    except InvalidRequest:
        return False
    return True


def test_the_list_is_that_of_the_renderer():
    assert set(colormap_names()) == set(Catalog()), "write the names of cmap's Catalog anew"


def test_every_name_can_be_drawn():
    assert all(renders(name) for name in colormap_names())


@pytest.mark.parametrize(
    "name",
    [
        *("turbo", "Turbo", "TURBO", "turbo_r", "magma_r", "bids:fake_parula", "bids:fake-parula"),
        *("RdYlGn", "rdylgn", "rdylgn_r", "tab20c", "turbo_R", "turbo_r_r", "_r", "", " turbo"),
        *("#ff0000", "red", "red,blue", "no-such-map", "../turbo", "turbo\n", Overlay().colormap),
    ],
)
def test_both_agree(name):
    assert is_colormap(name) == renders(name)


def test_the_nearest_name_is_suggested():
    assert suggest_colormap("turbbo") == "did you mean turbo?"
    assert "viridis" in suggest_colormap("qqqqqq")
