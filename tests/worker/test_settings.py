"""Settings of a worker, from flags and from the environment."""

from pathlib import Path

import pytest
from pydantic import ValidationError
from pydantic_settings import CliApp

from worker.settings import Settings


def parse(*flags: str) -> Settings:
    return CliApp.run(Settings, cli_args=list(flags))


def test_default_is_the_demo_model():
    settings = parse()
    assert (settings.engine, settings.model_name, settings.checkpoint) == (
        "torch",
        "moving-things",
        None,
    )
    assert settings.max_attempts == 3


def test_default_of_the_fake_engine_is_the_fake_model():
    assert parse("--engine", "fake").model_name == "fake"


def test_model_may_name_its_checkpoint():
    settings = parse("--model", "timesformer-k400=/models/a=b.pyth")
    assert settings.model_name == "timesformer-k400"
    assert settings.checkpoint == "/models/a=b.pyth"


@pytest.mark.parametrize("name", ["", "Big", "a b", "a/b", "-x", "x=", "=x"])
def test_invalid_model_name_is_refused(name):
    with pytest.raises(ValidationError, match="model"):
        Settings(model=name)


def test_flags_have_the_names_of_the_settings():
    settings = parse(
        "--redis-url", "unix:///s", "--data-dir", "/d", "--engine-timeout-seconds", "1.5"
    )
    assert settings.redis_url == "unix:///s"
    assert settings.data_dir == Path("/d")
    assert settings.engine_timeout_seconds == 1.5


def test_flags_override_the_environment(monkeypatch):
    monkeypatch.setenv("ROLLOUT_ENGINE", "fake")
    monkeypatch.setenv("ROLLOUT_MODEL", "fake-slow")
    assert parse().model_name == "fake-slow"
    assert parse("--model", "fake-hang").model_name == "fake-hang"


def test_engine_timeout_and_batch_size_have_no_fixed_default(monkeypatch):
    assert (parse().batch_clips, parse().engine_timeout_seconds) == (None, None)
    assert parse().media_timeout_seconds == 10
    monkeypatch.setenv("ROLLOUT_BATCH_CLIPS", "4")
    assert parse().batch_clips == 4


def test_checkpoint_sha256_must_be_a_whole_digest():
    assert parse("--checkpoint-sha256", "0f" * 32).checkpoint_sha256 == "0f" * 32
    for digest in ("0f", "0F" * 32, "0f" * 33):
        with pytest.raises(ValidationError, match="checkpoint_sha256"):
            Settings(checkpoint_sha256=digest)


def test_settings_of_the_service_are_ignored(monkeypatch):
    monkeypatch.setenv("ROLLOUT_MAX_UPLOAD_BYTES", "1")
    assert not hasattr(parse(), "max_upload_bytes")


@pytest.mark.parametrize(
    "name", ["max_attempts", "job_deadline_seconds", "max_video_pixels", "batch_clips"]
)
def test_zero_is_refused(name):
    with pytest.raises(ValidationError):
        Settings(**{name: 0})


def test_settings_are_frozen():
    with pytest.raises(ValidationError):
        parse().max_attempts = 5


def test_no_file_of_a_password_overrides_the_environment(monkeypatch, tmp_path):
    """So the standalone service starts its worker, whose Redis has no password."""
    file = tmp_path / "password"
    file.write_text("secret")
    monkeypatch.setenv("ROLLOUT_REDIS_PASSWORD_FILE", str(file))
    assert parse().redis_password_file == file
    assert parse("--redis-password-file", "None").redis_password_file is None


def test_redis_is_checked_without_telling_its_password(tmp_path):
    with pytest.raises(ValidationError, match="redis_url"):
        Settings(redis_url="http://nowhere")
    with pytest.raises(ValidationError, match="redis_password_file") as caught:
        Settings(redis_url="redis://host", redis_password_file=tmp_path / "missing")
    assert "cannot read" in str(caught.value)
    with pytest.raises(ValidationError, match="cannot be read") as caught:
        Settings(redis_url="redis://:secret/@host")
    assert "secret" not in str(caught.value)
    assert "secret" not in repr(Settings(redis_url="redis://:secret@host"))
