import pytest
from pydantic import ValidationError
from pydantic_settings import CliApp

from rollout_core.command import read_settings
from service.settings import Settings


def test_every_setting_has_a_default(monkeypatch):
    monkeypatch.delenv("ROLLOUT_DATA_DIR", raising=False)

    settings = Settings()

    assert settings.host == "127.0.0.1"
    assert settings.port == 8000
    assert settings.max_upload_bytes == 512 * 1024**2
    assert settings.max_queued == 1000
    assert settings.result_ttl == 7 * 24 * 3600
    assert not settings.standalone


def test_flags_win_over_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("ROLLOUT_PORT", "81")
    monkeypatch.setenv("ROLLOUT_MAX_QUEUED", "5")

    settings = CliApp.run(
        Settings, cli_args=["--port", "0", "--standalone", f"--data-dir={tmp_path}"]
    )

    assert settings.port == 0
    assert settings.max_queued == 5
    assert settings.standalone
    assert settings.data_dir == tmp_path


@pytest.mark.parametrize("field", Settings.model_fields)
def test_every_flag_is_written_with_hyphens_and_explained(field, capsys):
    with pytest.raises(SystemExit):
        CliApp.run(Settings, cli_args=["--help"])

    text = capsys.readouterr().out
    assert f"--{field.replace('_', '-')}" in text
    assert Settings.model_fields[field].description.split()[0] in text


def test_an_empty_variable_counts_as_unset(monkeypatch):
    monkeypatch.setenv("ROLLOUT_DEFAULT_MODEL", "")
    monkeypatch.setenv("ROLLOUT_PORT", "")

    assert Settings() == Settings(default_model=None, port=8000)


def test_settings_do_not_change():
    with pytest.raises(ValidationError):
        Settings().port = 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "70000"),
        ("VIDEO_URL_HOSTS", "https://a.example"),
        ("PRIVATE_HOSTS", "a.example/x"),
        ("MAX_UPLOAD_BYTES", "0"),
        ("RESULT_TTL", "-1"),
        ("DEFAULT_MODEL", "A/b"),
        ("UPLOAD_IDLE_SECONDS", "0"),
        ("UPLOAD_IDLE_SECONDS", "61"),
        ("MAX_CONNECTIONS", "0"),
        ("MAX_CONNECTIONS_PER_ADDRESS", "0"),
        ("ROOT_PATH", "explain"),
        ("ROOT_PATH", "/explain/"),
        ("ROOT_PATH", "/"),
        ("ROOT_PATH", "/v1"),
        ("ROOT_PATH", "/v1/explain"),
        ("ROOT_PATH", "/../x"),
        ("ROOT_PATH", "//evil.test"),
        ("TRUSTED_PROXIES", "proxy.test"),
        ("TRUSTED_PROXIES", "*"),
        ("DRAIN_SECONDS", "-1"),
    ],
)
def test_values_that_make_no_sense_are_refused(monkeypatch, name, value):
    monkeypatch.setenv(f"ROLLOUT_{name}", value)

    with pytest.raises(ValidationError):
        Settings()


def test_help_does_not_repeat_that_there_is_no_default(capsys):
    with pytest.raises(SystemExit):
        read_settings(Settings, ["--help"])

    text = " ".join(capsys.readouterr().out.split())
    assert "https://a.example; * for all. Default: none. --" in text
    assert "(default: None)" not in text


def test_the_file_of_the_password_goes_with_the_url(tmp_path):
    file = tmp_path / "password"
    file.write_text("secret\n")
    settings = Settings(redis_url="redis://me@host:1/2", redis_password_file=file)
    assert settings.redis.options["credential_provider"].get_credentials() == ("me", "secret")
    with pytest.raises(ValidationError, match="redis_password_file") as caught:
        Settings(redis_url="redis://:other@host", redis_password_file=file)
    assert "other" not in str(caught.value)


def test_no_error_and_no_representation_shows_the_password_of_redis():
    with pytest.raises(ValidationError, match="redis_url") as caught:
        Settings(redis_url="redis://:pa55word/@host")
    assert "pa55word" not in str(caught.value)
    assert "pa55word" not in repr(Settings(redis_url="redis://:pa55word@host"))
