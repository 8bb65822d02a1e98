import re

import pytest

from rollout_core.__main__ import Command
from rollout_core.client.clients import KEY_VARIABLE, URL_VARIABLE
from rollout_core.testing.plugin import OTHER_KEY_VARIABLE
from rollout_core.variables import (
    CLIENT,
    COMPOSE,
    EXPLAIN,
    SERVICE,
    SETTINGS,
    WORKER,
    unknown_variables,
)
from service.settings import Settings as ServiceSettings
from tests.system.processes import ROOT
from worker.settings import Settings as WorkerSettings


@pytest.mark.parametrize(
    ("names", "settings"),
    [(SERVICE, ServiceSettings), (WORKER, WorkerSettings), (EXPLAIN, Command)],
)
def test_every_setting_of_a_command_is_known(names, settings):
    assert sorted(names) == sorted(settings.model_fields)


def test_variables_of_the_client_and_of_compose_are_known():
    names = {f"ROLLOUT_{name.upper()}" for name in CLIENT}
    assert names == {KEY_VARIABLE, URL_VARIABLE, OTHER_KEY_VARIABLE}
    text = "".join(path.read_text() for path in ROOT.glob("docker-compose*.yml"))
    used = set(re.findall(r"\$\{ROLLOUT_(\w+)", text))
    assert used - {name.upper() for name in SETTINGS} == {name.upper() for name in COMPOSE}


def test_a_misspelt_variable_is_told_with_the_nearest_setting():
    variables = ["ROLLOUT_MAX_QUED", "ROLLOUT_URL", "ROLLOUT_MAX_QUEUED", "PATH", "rollout_mdel"]
    assert list(unknown_variables(variables, ServiceSettings.model_fields)) == [
        "there is no setting ROLLOUT_MAX_QUED; did you mean ROLLOUT_MAX_QUEUED?",
        "there is no setting rollout_mdel; did you mean ROLLOUT_MODEL?",
    ]
    assert list(unknown_variables(["ROLLOUT_ZZZZ"], ["port"])) == [
        "there is no setting ROLLOUT_ZZZZ"
    ]
