import base64
import logging

import pytest
from standardwebhooks import Webhook

from service.webhook_secrets import SecretsFileError, WebhookSecrets, check_secret, make_secret


class Keys:
    def webhook_secrets(self, owner):
        return {"alice": ("whsec_a",)}.get(owner, ())


@pytest.fixture
def path(tmp_path):
    return tmp_path / "secrets"


def test_made_secrets_differ_and_are_valid():
    made = {make_secret() for _ in range(3)}
    assert len(made) == 3
    for secret in made:
        assert check_secret(secret) == secret
        assert Webhook(secret)


@pytest.mark.parametrize(
    "secret",
    [
        "",
        "whsec_",
        "secret",
        base64.b64encode(bytes(range(32))).decode(),
        "whsec_" + "ü" * 40,
        "whsec_" + base64.b64encode(bytes(23)).decode(),
        "whsec_" + base64.b64encode(bytes(65)).decode(),
    ],
)
def test_other_texts_are_refused_without_being_repeated(secret):
    with pytest.raises(ValueError, match="24 to 64 bytes") as caught:
        check_secret(secret)
    assert len(secret) < 8 or secret not in str(caught.value)


def test_file_has_one_secret_a_line(path):
    first, second = make_secret(), make_secret()
    path.write_text(f"# new\n{first}  # since May\n\n{second}\n")
    assert WebhookSecrets(None, path).of(None) == (first, second)


def test_changed_file_is_read_again_and_a_broken_one_is_not_used(path, caplog):
    path.write_text(make_secret())
    secrets, new = WebhookSecrets(None, path), make_secret()
    path.write_text(new)
    assert secrets.of(None) == (new,)
    with caplog.at_level(logging.ERROR):
        path.write_text("whsec_broken")
        assert secrets.of(None) == secrets.of(None) == (new,)
    assert len(caplog.records) == 1
    assert "whsec_broken" not in caplog.text


@pytest.mark.parametrize("text", ["", "# none\n", "password\n"])
def test_invalid_file_is_refused_at_the_start(path, text):
    path.write_text(text)
    with pytest.raises(SecretsFileError, match="secrets"):
        WebhookSecrets(None, path)
    path.unlink()
    with pytest.raises(SecretsFileError, match="cannot be read"):
        WebhookSecrets(None, path)


def test_with_keys_each_owner_has_their_own(path):
    path.write_text(make_secret())
    secrets = WebhookSecrets(Keys(), path)
    assert secrets.of("alice") == ("whsec_a",)
    assert secrets.of("bob") == secrets.of(None) == ()


def test_without_a_file_there_is_none():
    assert WebhookSecrets(None, None).of(None) == ()
