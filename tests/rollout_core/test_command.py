import gc
import subprocess
import sys
from importlib import import_module

import pytest
from pydantic import Field
from pydantic_settings import BaseSettings

from rollout_core.command import (
    importing_much,
    read_settings,
    require_extra,
    require_modules,
    settings_config,
)


class Settings(BaseSettings):
    model_config = settings_config("rollout-example")

    max_clips: int = Field(1, ge=1)
    min_frames: int = 1
    loud: bool = False


def test_flags_win_over_the_environment_and_that_over_defaults(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ROLLOUT_MAX_CLIPS", "3")
    assert read_settings(Settings, []) == Settings(max_clips=3)
    assert read_settings(Settings, ["--max-clips", "4", "--loud"]) == Settings(
        max_clips=4, loud=True
    )


def test_an_empty_variable_is_not_set(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ROLLOUT_MAX_CLIPS", "")
    assert read_settings(Settings, []).max_clips == 1


def test_every_invalid_setting_is_named_in_one_line():
    with pytest.raises(SystemExit) as caught:
        read_settings(Settings, ["--max-clips", "0", "--min-frames", "none"])
    line = str(caught.value)
    assert line.startswith("rollout-example: max_clips: must be greater")
    assert "; min_frames: must be a whole number" in line
    assert "\n" not in line


def test_a_variable_that_no_command_knows_is_told(monkeypatch, capsys):
    monkeypatch.setenv("ROLLOUT_MAX_CLPS", "3")
    monkeypatch.setenv("ROLLOUT_URL", "http://there")
    assert read_settings(Settings, []).max_clips == 1
    assert capsys.readouterr().err == (
        "rollout-example: there is no setting ROLLOUT_MAX_CLPS; did you mean ROLLOUT_MAX_CLIPS?\n"
    )


def test_a_missing_module_names_the_extra_in_one_line():
    with (
        pytest.raises(SystemExit) as caught,
        require_extra("rollout-example", "worker"),
    ):
        import_module("no_such_module.inside")
    assert str(caught.value) == (
        "rollout-example needs the extra 'worker': pip install 'timesformer-rollout[worker]' "
        "(no module named 'no_such_module')"
    )


def test_a_missing_module_of_our_own_is_a_bug_and_raised():
    with (
        pytest.raises(ModuleNotFoundError),
        require_extra("rollout-example", "worker"),
    ):
        import_module("rollout_core.no_such_module")


def test_required_modules_are_looked_up_without_importing_them():
    code = (
        "import sys; from rollout_core.command import require_modules; "
        "require_modules('numpy', 'torch'); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    with pytest.raises(ModuleNotFoundError, match="no module named 'no_such_module'"):
        require_modules("numpy", "no_such_module")


def test_garbage_is_collected_again_after_many_imports_even_if_one_fails():
    try:
        with pytest.raises(ImportError), importing_much():
            assert not gc.isenabled()
            import_module("no_such_module")
        assert gc.isenabled()
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()
