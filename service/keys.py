"""The command that makes an API key: `python -m service.keys NAME`.

`python -m service.keys --webhook-secret` makes a secret that signs webhooks.

It prints the key's table for the file of keys (see `service.auth`), and on standard error the key.
A key is 32 random bytes, so its plain digest is as safe as a slow hash would be.
"""

import secrets
import sys
from hashlib import sha256

from service.usage import Owner
from service.webhook_secrets import make_secret

KEY_BYTES = 32
WEBHOOK_FLAG = "--webhook-secret"


def main(arguments: list[str] | None = None) -> None:
    """Make a key for one name, or a webhook secret.

    Raises:
        SystemExit: there is not exactly one name, or it has a character that is not allowed.
    """
    names = sys.argv[1:] if arguments is None else arguments
    if names == [WEBHOOK_FLAG]:
        sys.stdout.write(f"{make_secret()}\n")
        return
    try:
        (name,) = names
        if name.startswith("-"):
            raise ValueError("a flag")
        owner = Owner(name=name)
    except ValueError:
        sys.exit(
            "usage: python -m service.keys NAME|--webhook-secret   (NAME: letters, digits, - and _)"
        )
    key = secrets.token_urlsafe(KEY_BYTES)
    sys.stdout.write(f'[{owner.name}]\nsha256 = "{sha256(key.encode()).hexdigest()}"\n')
    sys.stdout.flush()
    sys.stderr.write(f"The key of {owner.name}; it is not stored, so keep it: {key}\n")


if __name__ == "__main__":
    main()
