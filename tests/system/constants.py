"""Runs a program with other values of module constants, such as shorter leases.

    python -m tests.system.constants MODULE:NAME=VALUE … PROGRAM ARGUMENT …

Each VALUE is a number of the type that the constant has. A constant that other modules have
imported by name, or that is a parameter's default, keeps its value there.
"""

import runpy
import sys
from importlib import import_module

SHORT_LEASE = (
    "tests.system.constants",
    "service.idempotency:LEASE_SECONDS=2",
    "service.idempotency:RENEW_SECONDS=0.5",
)
"""For `System.api(under=…)`: once killed, the API holds an idempotency key for two seconds."""


def main() -> None:
    """Set the constants, then run the program in this process."""
    arguments = sys.argv[1:]
    while ":" in arguments[0]:
        set_constant(arguments.pop(0))
    sys.argv = arguments
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)


def set_constant(assignment: str) -> None:
    """Set a constant, given as `MODULE:NAME=VALUE`.

    Raises:
        AttributeError: the module has no such constant.
    """
    place, _, value = assignment.partition("=")
    module_name, _, name = place.partition(":")
    module = import_module(module_name)
    setattr(module, name, type(getattr(module, name))(value))


if __name__ == "__main__":
    main()
