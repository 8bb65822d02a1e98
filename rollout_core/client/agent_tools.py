"""`rollout-client mcp`: four tools for agents, over standard input and output.

By hand, not made from the OpenAPI document: an agent needs few tools that do a whole task each,
words where the API gives files, and errors that say what to do.
"""

import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import anyio
from mcp.server.mcpserver import Context, Image, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.tools import Tool
from mcp.types import ToolAnnotations
from pydantic import Field, ValidationError

from rollout_core import __version__
from rollout_core.client.calls import is_url
from rollout_core.client.clients import AsyncRolloutClient
from rollout_core.client.errors import ClientError
from rollout_core.client.findings import describe_findings, tell_findings
from rollout_core.client.flags import read_query
from rollout_core.client.printing import job_lines
from rollout_core.client.submitting import explain_failure
from rollout_core.command import describe_errors
from rollout_core.contract import SHEET_NAME, Fill, JobOptions, Method, Stage
from rollout_core.errors import describe_failure
from rollout_core.jobs.schemas import Job

INSTRUCTIONS = """\
Explains what a video classifier (TimeSformer) looks at. explain_video sends a video and waits for \
the answer: the predicted classes, and when and where the model looked. show_sheet returns a \
picture of the sampled frames with heat maps. Relevance shows where information could flow in the \
model; it does not prove what caused the prediction."""

READS = ToolAnnotations(read_only_hint=True, open_world_hint=False)
MAKES = ToolAnnotations(read_only_hint=False, destructive_hint=False, open_world_hint=True)

STAGES = get_args(Stage)

VideoArgument = Annotated[
    str, Field(description="Path of a video file on this machine, or an http(s) URL of one.")
]
JobArgument = Annotated[str, Field(description="Id of a job: 32 hexadecimal digits.")]


def serve(url: str | None, api_key: str | None) -> None:
    """Answer an agent until it closes our standard input."""
    client = AsyncRolloutClient(url, api_key)
    server = make_server(client)

    async def run() -> None:
        async with client:
            await server.run_stdio_async()

    anyio.run(run)


def make_server(client: AsyncRolloutClient) -> MCPServer[Any]:
    """Return a server with the four tools."""
    tools = _Tools(client)
    return MCPServer(
        "timesformer-rollout",
        instructions=INSTRUCTIONS,
        version=__version__,
        log_level="WARNING",
        tools=[
            _StrictTool.of(tools.explain_video, MAKES),
            _StrictTool.of(tools.get_job, READS),
            _StrictTool.of(tools.list_models, READS),
            _StrictTool.of(tools.show_sheet, READS),
        ],
    )


class _StrictTool(Tool):
    """A tool that refuses arguments that it does not have, and explains wrong ones in plain words.

    The base class ignores unknown arguments, and answers with pydantic's own text.
    """

    @classmethod
    def of(cls, function: Callable[..., Any], annotations: ToolAnnotations) -> Self:
        tool = cls.from_function(function, annotations=annotations, structured_output=False)
        assert isinstance(tool, cls)
        arguments = tool.fn_metadata.arg_model
        arguments.model_config["extra"] = "forbid"
        arguments.model_rebuild(force=True)
        tool.parameters = arguments.model_json_schema(by_alias=True)
        return tool

    async def run(
        self, arguments: dict[str, Any], context: Context[Any, Any], convert_result: bool = False
    ) -> Any:
        try:
            self.fn_metadata.validate_arguments(arguments)
        except ValidationError as error:
            raise ToolError(describe_errors(error, self.fn_metadata.arg_model)) from error
        return await super().run(arguments, context, convert_result)


class _Tools:
    """The tools. Their docstrings and argument descriptions are what an agent reads."""

    def __init__(self, client: AsyncRolloutClient) -> None:
        self._client = client

    async def explain_video(
        self,
        video: VideoArgument,
        ctx: Context[Any, Any],
        model: Annotated[
            str | None, Field(description="Name from list_models. Default: the service's.")
        ] = None,
        method: Annotated[
            Method,
            Field(
                description="rollout and attention are for the prediction as a whole, and so is "
                "contribution_rollout, by what tokens contribute; with a target it tells what "
                "speaks for that class. difference tells what made the class's score differ from "
                "that of the clip held still: what the motion did. gradient_rollout is older."
            ),
        ] = "rollout",
        target: Annotated[
            str | None,
            Field(
                description="Class to explain, or predicted; for contribution_rollout, difference "
                "and gradient_rollout."
            ),
        ] = None,
        against: Annotated[
            str | None,
            Field(description="Why target and not this class? For contribution_rollout."),
        ] = None,
        reference: Annotated[
            Fill,
            Field(
                description="What difference compares with: the clip still, blurred, or one colour."
            ),
        ] = "still",
        query: Annotated[
            str,
            Field(description="cls, a patch FRAME:ROW:COLUMN, or a point X:Y@SECONDS."),
        ] = "cls",
        clips: Annotated[
            Literal["one", "tile"],
            Field(description="one clip spread over the span, or tile: clips that cover it."),
        ] = "one",
        start_seconds: Annotated[float | None, Field(description="Start of the span.")] = None,
        end_seconds: Annotated[float | None, Field(description="End of the span.")] = None,
        max_wait_seconds: Annotated[
            float, Field(gt=0, le=3600, description="Then the job is left running; see get_job.")
        ] = 600,
    ) -> str:
        """Explain a video: what the model predicts, and when and where it looked.

        Waits for the job, and reports progress. The answer names the job, for show_sheet.
        """
        given = {
            "model": model,
            "target": target,
            "against": against,
            "start_seconds": start_seconds,
            "end_seconds": end_seconds,
        }
        async with _plain_errors():
            request: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
            request |= {"method": method, "clips": clips, "query": read_query(query)}
            request["reference"] = reference
            options = JobOptions(overlay=None, **request)  # nothing here shows a video
            source = video if is_url(video) else Path(video).expanduser()
            await ctx.report_progress(0, len(STAGES) + 1, "uploading")
            job = await self._client.submit(source, options)
            job = await self._follow(job, max_wait_seconds, ctx)
            return await self._tell(job)

    async def get_job(self, job_id: JobArgument) -> str:
        """Return the state of a job; if it has succeeded, also what the model looked at."""
        async with _plain_errors():
            return await self._tell(await self._client.get(job_id))

    async def list_models(self) -> str:
        """List the models that can be used now, with what each one expects."""
        async with _plain_errors():
            served = await self._client.models()
        if not served:
            return "No worker serves a model at the moment."
        return "\n".join(
            f"{model.name}: {model.spec.frames} frames of {model.spec.height} × "
            f"{model.spec.width}, {model.spec.classes} classes, {_count_workers(model.ready)} ready"
            for model in served
        )

    async def show_sheet(self, job_id: JobArgument) -> Image:
        """Return the contact sheet of a job: sampled frames above, their heat maps below."""
        async with _plain_errors():
            job = await self._client.get(job_id)
            with tempfile.TemporaryDirectory(prefix="rollout-client-") as folder:
                (path,) = await self._client.download(job, folder, (SHEET_NAME,))
                return Image(data=path.read_bytes(), format="png")

    async def _follow(self, job: Job, max_wait_seconds: float, ctx: Context[Any, Any]) -> Job:
        """Return the job when it has ended, or as it is when there was no more time."""
        total = len(STAGES) + 1
        with anyio.move_on_after(max_wait_seconds):
            async for event in self._client.events(job):
                job = event.job or job
                if event.progress is not None:
                    stage, progress = event.progress.stage, event.progress
                    share = progress.done / progress.total if progress.total else 0
                    text = f"{stage} {progress.done} of {progress.total}"
                    await ctx.report_progress(1 + STAGES.index(stage) + share, total, text)
            return job
        return await self._client.get(job)

    async def _tell(self, job: Job) -> str:
        if job.state in ("queued", "running"):
            lines = "\n".join(job_lines(job))
            return f"Job {job.id} has not ended yet; ask again with get_job.\n{lines}"
        if job.state == "canceled":
            return f"Job {job.id} was canceled."
        if job.error is not None:
            reason = describe_failure(job.error.title, job.error.detail)
            raise ToolError(f"Job {job.id} failed: {reason}")
        result, arrays = await self._client.result(job), await self._client.arrays(job)
        return f"Job {job.id}\n{tell_findings(describe_findings(result, arrays))}"


def _count_workers(number: int) -> str:
    return "1 worker" if number == 1 else f"{number} workers"


@asynccontextmanager
async def _plain_errors() -> AsyncIterator[None]:
    """Raise expected failures as errors of a tool, in words for the agent."""
    try:
        yield
    except ValidationError as error:
        raise ToolError(describe_errors(error, JobOptions)) from error
    except (ClientError, OSError, ValueError) as error:
        raise ToolError(explain_failure(error)) from error
