"""`python -m rollout_core.client` is `rollout-client`."""

from rollout_core.client.command import main

if __name__ == "__main__":
    main()
