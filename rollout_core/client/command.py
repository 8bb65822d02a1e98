"""`rollout-client`: explains videos by a service, and looks after its jobs."""

import argparse
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, get_args

import anyio
from pydantic import BaseModel, ValidationError

from rollout_core import __version__
from rollout_core.client import printing
from rollout_core.client.clients import DEFAULT_URL, AsyncRolloutClient, RolloutClient
from rollout_core.client.display import Display, printable
from rollout_core.client.errors import ClientError
from rollout_core.client.flags import add_request_flags, read_request
from rollout_core.client.retries import Retries
from rollout_core.client.submitting import (
    Batch,
    Plan,
    Task,
    error_json,
    explain_failure,
    follow,
    make_tasks,
    task_json,
)
from rollout_core.command import describe_errors, require_extra, tell_unknown_variables
from rollout_core.contract import ARTIFACT_NAMES, JobOptions
from rollout_core.jobs.records import JobState
from rollout_core.suggestions import enumerate_choices
from rollout_core.variables import CLIENT

NAME = "rollout-client"
FAILED, MISUSED, INTERRUPTED = 1, 2, 130
"""Exit statuses: something failed; the command line is wrong; Ctrl-C."""

KEY_FLAG = "--api-key"

SHELLS = ("bash", "zsh", "fish")
OUTPUT = Path("rollout-output")

QUICK = Retries(attempts=2)
"""For calls that a person waits for: an address that is wrong is told within two seconds."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Carry out a command line and end the process with its status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parsed = make_parser().parse_args(given)
    parsed.given = given
    tell_unknown_variables(NAME, CLIENT)
    try:
        status = parsed.run(parsed)
        sys.stdout.flush()
    except ValidationError as error:
        status = _complain(describe_errors(error, JobOptions), MISUSED)
    except BrokenPipeError:  # the reader of our output has left: say nothing more, also at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = FAILED
    except (ClientError, OSError) as error:
        status = _complain(explain_failure(error), FAILED)
    except ValueError as error:
        status = _complain(str(error), MISUSED)
    except KeyboardInterrupt:
        status = _complain("interrupted", INTERRUPTED)
    sys.exit(status)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    parser = argparse.ArgumentParser(
        prog=NAME, description="Explain videos by a rollout service.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, run: Callable[[Any], int], text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        command.set_defaults(run=run)
        return command

    submit = add("submit", _submit, "explain videos and fetch the results")
    submit.add_argument("source", nargs="+", metavar="FILE|FOLDER|URL", help="what to explain")
    submit.add_argument("--no-wait", action="store_true", help="do not wait for the jobs")
    submit.add_argument(
        "--parallel", type=_count, default=4, metavar="N", help="videos at a time (default: 4)"
    )
    _add_download_flags(submit, OUTPUT)
    add_request_flags(submit)

    jobs = add("jobs", _jobs, "list your jobs, newest first")
    jobs.add_argument("--state", choices=get_args(JobState))
    jobs.add_argument("--tag", help="only jobs with this tag")
    jobs.add_argument("--model", help="only jobs for this model")
    jobs.add_argument("--limit", type=_count, default=50, metavar="N", help="default: 50")

    show = add("show", _show, "show a job")
    show.add_argument("id", metavar="ID")
    show.add_argument("--follow", action="store_true", help="wait until it has ended")
    _add_download_flags(show, None)

    for name, run, text in (
        ("cancel", _cancel, "cancel jobs"),
        ("delete", _delete, "delete jobs and their files"),
    ):
        add(name, run, text).add_argument("id", nargs="+", metavar="ID")
    add("models", _models, "list the models that can be used now")
    add("mcp", _mcp, "serve tools for agents over standard input and output (extra: mcp)")
    for command in commands.choices.values():
        _add_common_flags(command)
    completion = add("completion", _completion, "print a script that completes this command")
    completion.add_argument("shell", choices=SHELLS)
    return parser


def _add_common_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", help=f"of the service; default: ROLLOUT_URL, else {DEFAULT_URL}")
    parser.add_argument(
        KEY_FLAG, metavar="KEY", help="default: ROLLOUT_API_KEY, which other users cannot see"
    )
    parser.add_argument("--json", action="store_true", help="one JSON document a line")


def _add_download_flags(parser: argparse.ArgumentParser, output: Path | None) -> None:
    where = f"folder for the results (default: {output})" if output else "also fetch the files"
    parser.add_argument("-o", "--output", type=Path, default=output, metavar="FOLDER", help=where)
    parser.add_argument(
        "--artifact",
        action="append",
        choices=ARTIFACT_NAMES,
        metavar="NAME",
        help=f"fetch this file of the result only: {enumerate_choices(ARTIFACT_NAMES)}; "
        "may be repeated",
    )


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise ValueError
    return count


_count.__name__ = "count"
"""What argparse calls the kind of value."""


# The commands. Each returns the exit status.


def _submit(arguments: argparse.Namespace) -> int:
    options = read_request(arguments)
    tasks = make_tasks(arguments.source, arguments.output)
    names = tuple(arguments.artifact) if arguments.artifact else None
    plan = Plan(options, waits=not arguments.no_wait, names=names, parallel=arguments.parallel)
    display = Display(quiet=arguments.json)
    batch = _JsonBatch if arguments.json else Batch

    async def run() -> None:
        async with AsyncRolloutClient(arguments.url, arguments.api_key) as client:
            await batch(client, plan, display, tasks).run()

    try:
        anyio.run(run)
    except KeyboardInterrupt:
        display.close()
        for line in _how_to_go_on(arguments, tasks):
            display.complain(line)
        return INTERRUPTED
    failed = [task for task in tasks if _is_bad(task)]
    if failed and len(tasks) > 1:
        display.complain(f"{NAME}: {len(failed)} of {len(tasks)} videos failed")
    return FAILED if failed else 0


class _JsonBatch(Batch):
    """Reports for programs."""

    def report(self, task: Task) -> None:
        self.display.print(json.dumps(task_json(task)))


def _is_bad(task: Task) -> bool:
    canceled = task.job is not None and task.job.state == "canceled"
    return task.has_failed or canceled


def _how_to_go_on(arguments: argparse.Namespace, tasks: Sequence[Task]) -> Iterable[str]:
    """Yield lines that say what goes on without us, and the commands that take it up again."""
    yield f"{NAME}: interrupted"
    place = ["--url", arguments.url] if arguments.url else []
    for task in tasks:
        if task.job is not None and not task.has_ended:
            yield f"{printable(task.source)}: job {task.job.id} goes on. To follow it:"
            words = [NAME, "show", *place, "--follow", "-o", str(task.folder), task.job.id]
            yield f"    {shlex.join(words)}"
    if any(task.job is None and not task.has_ended for task in tasks):
        left = [task.source for task in tasks if task.job is None and not task.has_ended]
        given = _without_key(arguments.given)
        flags = [word for word in given if word not in arguments.source]
        yield f"{len(left)} of {len(tasks)} videos are not submitted. To go on with them:"
        yield f"    {shlex.join([NAME, *flags, *left])}"


def _without_key(words: Sequence[str]) -> Iterable[str]:
    """Yield the words of a command line but the API key: a terminal or a log may be kept."""
    before = ""
    for word in words:
        if KEY_FLAG not in (before, word.partition("=")[0]):
            yield word
        before = word


def _jobs(arguments: argparse.Namespace) -> int:
    with _client(arguments) as client:
        listed = client.list(state=arguments.state, tag=arguments.tag, model=arguments.model)
        found = islice(listed, arguments.limit)
        if arguments.json:
            _print_models(found)
        else:
            _print_lines(printing.job_table(list(found)))
    return 0


def _show(arguments: argparse.Namespace) -> int:
    display = Display(quiet=arguments.json)
    downloads = arguments.output is not None or arguments.artifact is not None
    folder = arguments.output or OUTPUT
    names = tuple(arguments.artifact) if arguments.artifact else None
    plan = Plan(JobOptions(), downloads=downloads, names=names)
    task = Task(arguments.id, folder)

    async def run() -> None:
        async with AsyncRolloutClient(arguments.url, arguments.api_key) as client:
            task.job = await client.get(arguments.id)
            if arguments.follow:
                task.job, task.files = await follow(
                    client, task.job, arguments.id, folder, plan, display
                )
            elif downloads:
                task.files = await client.download(task.job, folder, names)

    try:
        anyio.run(run)
    except KeyboardInterrupt:
        display.close()
        for line in _how_to_go_on(arguments, [task]):
            display.complain(line)
        return INTERRUPTED
    display.close()
    assert task.job is not None
    if arguments.json:
        _print_models([task.job])
    else:
        _print_lines(printing.job_lines(task.job))
        _print_lines(str(path) for path in task.files)
    return FAILED if arguments.follow and task.job.state != "succeeded" else 0


def _cancel(arguments: argparse.Namespace) -> int:
    with _client(arguments) as client:
        return _each(arguments, lambda name: client.cancel(name).model_dump(mode="json"))


def _delete(arguments: argparse.Namespace) -> int:
    def delete(name: str) -> dict[str, Any]:
        client.delete(name)
        return {"id": name, "state": "deleted"}

    with _client(arguments) as client:
        return _each(arguments, delete)


def _each(arguments: argparse.Namespace, act: Callable[[str], dict[str, Any]]) -> int:
    """Act on each id; go on after failures."""
    status = 0
    for name in arguments.id:
        try:
            done = act(name)
            text = "stops soon" if done["state"] == "running" else done["state"]
        except ClientError as failure:
            status = FAILED
            done = {"id": name, "error": error_json(failure)}
            text = explain_failure(failure)
        if arguments.json:
            _print_lines([json.dumps(done)])
        elif "state" in done:
            _print_lines([f"{name}: {text}"])
        else:
            _complain(f"{name}: {text}", FAILED)
    return status


def _models(arguments: argparse.Namespace) -> int:
    with _client(arguments) as client:
        served = client.models()
    if arguments.json:
        _print_models(served)
    else:
        _print_lines(printing.model_table(served))
    return 0


def _mcp(arguments: argparse.Namespace) -> int:
    with require_extra(f"{NAME} mcp", "mcp"):
        from rollout_core.client.agent_tools import serve
    serve(arguments.url, arguments.api_key)
    return 0


def _completion(arguments: argparse.Namespace) -> int:
    import shtab

    parser = make_parser()
    for action in _all_actions(parser):
        if action.metavar in ("FILE|FOLDER|URL", "FOLDER"):
            action.complete = shtab.FILE  # type: ignore[attr-defined]  # read by shtab
    _print_lines([shtab.complete(parser, arguments.shell)])
    return 0


def _all_actions(parser: argparse.ArgumentParser) -> Iterable[argparse.Action]:
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                yield from _all_actions(child)


def _client(arguments: argparse.Namespace) -> RolloutClient:
    return RolloutClient(arguments.url, arguments.api_key, retries=QUICK)


def _print_models(models: Iterable[BaseModel]) -> None:
    _print_lines(model.model_dump_json() for model in models)


def _print_lines(lines: Iterable[str]) -> None:
    for line in lines:
        print(line)


def _complain(text: str, status: int) -> int:
    """Say in one line what is wrong; return the status."""
    line = " ".join(text.splitlines())
    print(f"{NAME}: {printable(line)}", file=sys.stderr)
    return status


if __name__ == "__main__":
    main()
