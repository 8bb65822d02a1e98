"""Draw the panels of the Grafana dashboard from a real run.

    python -m tests.benchmarks.dashboard OUTPUT.webp [--minutes 5]

starts a service with three fake workers, Prometheus (Debian's package `prometheus`) with our alert
rules, and clients that upload, ask, send what is refused, and wish for webhooks. In the middle of
the run there are more of them than the workers can serve, and a worker is killed. Then it asks
Prometheus for the queries of `deploy/grafana/dashboard.json`, and draws them with matplotlib in the
places of their panels. It is a picture of the numbers and of the layout, not of Grafana.
"""

import argparse
import json
import math
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator
from PIL import Image

from service.webhook_secrets import make_secret
from tests.load.film import make_film
from tests.system.system import System, free_port, open_system, upload
from tests.system.tools import SEARCH_PATH
from tests.system.waiting import wait_until
from tests.system.webhook_receiver import Receiver, running_receiver
from tests.worker.clips import make_video

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "deploy" / "grafana" / "dashboard.json"
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"

SCRAPE_SECONDS = 1
RATE_INTERVAL = "20s"
"""Stands for Grafana's `$__rate_interval`."""

FEW, MANY = 3, 14
"""Clients at the start and at the end of the run, and in its middle."""

MOST_STORED = 700_000_000
SIZE_INCHES, DOTS_PER_INCH = (19.2, 22.0), 100
ROW_UNITS = 47
PALETTE = ("#7eb26d", "#eab839", "#6ed0e0", "#ef843c", "#e24d42", "#1f78c1", "#ba43a9", "#b7dbab")
BACK, PANEL, TEXT, FAINT = "#111217", "#181b1f", "#d8d9da", "#33363d"


@dataclass(frozen=True)
class Series:
    """One line of a panel: Unix times and values, and what the legend says."""

    label: str
    times: list[float]
    values: list[float]


class Prometheus:
    """A running Prometheus server."""

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=30)

    def query_range(self, target: dict[str, Any], start: float, end: float) -> list[Series]:
        """Return what a target of a panel shows between two Unix times."""
        text = target["expr"].replace("$__rate_interval", RATE_INTERVAL).replace("$model", ".*")
        span = {"start": start, "end": end, "step": SCRAPE_SECONDS}
        answer = self._client.get("/api/v1/query_range", params={"query": text, **span}).json()
        assert answer["status"] == "success", answer
        return [_series(item, target["legendFormat"]) for item in answer["data"]["result"]]

    def is_ready(self) -> bool:
        """Return whether it answers."""
        with suppress(httpx.TransportError):
            return self._client.get("/-/ready").is_success
        return False

    def alerts(self) -> list[str]:
        """Return the names of the alerts that fire or are about to."""
        found = self._client.get("/api/v1/alerts").json()["data"]["alerts"]
        return sorted({f"{item['labels']['alertname']} ({item['state']})" for item in found})


def _series(item: dict[str, Any], legend: str) -> Series:
    label = legend
    for name, value in item["metric"].items():
        short = value.rpartition(".")[2][:4] if name == "worker" else value
        label = label.replace("{{" + name + "}}", short)
    return Series(
        label,
        [float(at) for at, _ in item["values"]],
        [float(value) for _, value in item["values"]],
    )


@contextmanager
def running_prometheus(metrics_port: int) -> Iterator[Prometheus]:
    """Run Prometheus, which scrapes a port of this machine each second."""
    program = shutil.which("prometheus", path=SEARCH_PATH)
    if program is None:
        sys.exit("prometheus is not installed; Debian's package has that name")
    with tempfile.TemporaryDirectory(prefix="prometheus-") as name:
        folder, port = Path(name), free_port()
        config = {
            "global": {"scrape_interval": f"{SCRAPE_SECONDS}s", "evaluation_interval": "1s"},
            "rule_files": [str(ALERTS)],
            "scrape_configs": [
                {
                    "job_name": "rollout",
                    "static_configs": [{"targets": [f"127.0.0.1:{metrics_port}"]}],
                }
            ],
        }
        (folder / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
        command = [program, f"--config.file={folder}/prometheus.yml"]
        command += [f"--storage.tsdb.path={folder}/data", f"--web.listen-address=127.0.0.1:{port}"]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            server = Prometheus(f"http://127.0.0.1:{port}")
            wait_until(server.is_ready, 30, "Prometheus to answer")
            yield server
        finally:
            process.terminate()
            process.wait()


class Clients:
    """Clients that come and go."""

    def __init__(self, system: System, receiver: Receiver, videos: list[bytes]) -> None:
        self._url = str(system.client.base_url)
        self._hook = {"url": receiver.url}
        self._videos = videos
        self._wanted = 0
        self._threads: list[threading.Thread] = []

    def set_number(self, number: int) -> None:
        """Let this many clients work from now on."""
        self._wanted = number
        while len(self._threads) < number:
            place = len(self._threads)
            thread = threading.Thread(target=self._work, args=(place,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _work(self, place: int) -> None:
        rng = random.Random(place)
        with httpx.Client(base_url=self._url, timeout=60) as client:
            while True:
                if place >= self._wanted:
                    time.sleep(0.5)
                    continue
                with suppress(httpx.HTTPError):
                    self._explain(client, rng)

    def _explain(self, client: httpx.Client, rng: random.Random) -> None:
        """Submit a job and wait for its end; sometimes ask for what is refused."""
        chance, asked = rng.random(), {"clips": "tile"}
        model = "fake-slow" if chance < 0.2 else "fake"
        if 0.2 < chance < 0.26:
            asked |= {"fake": {"fail": "out_of_memory"}}
        elif 0.26 < chance < 0.3:
            asked |= {"fake": {"crash_attempts": 1}}
        elif chance > 0.6:
            asked |= {"webhook": self._hook}
        elif chance > 0.5:
            client.get(f"/v1/jobs/{rng.randbytes(16).hex()}")
        made = client.post("/v1/jobs", files=upload(rng.choice(self._videos), model, **asked))
        if made.status_code != 202:
            time.sleep(1)
            return
        path = f"/v1/jobs/{made.json()['id']}"
        while client.get(path).json()["state"] in ("queued", "running"):
            time.sleep(rng.uniform(0.3, 1))
        client.get(f"{path}/artifacts/result.json")


def run(seconds: float) -> tuple[dict[str, Any], dict[int, list[list[Series]]], list[str]]:
    """Run the service under load; return the dashboard, each panel's series, and the alerts."""
    with open_system() as system, running_receiver() as receiver:
        port, folder = free_port(), system.data_dir.parent
        (folder / "secrets").write_text(make_secret())
        videos = [make_film(folder / "film.mp4"), make_video(folder / "short.mp4", seconds=6)]
        flags = ("--metrics-address", f"127.0.0.1:{port}", "--max-store-bytes", str(MOST_STORED))
        flags += ("--private-hosts", "127.0.0.1", "--webhook-secret-file", str(folder / "secrets"))
        with running_prometheus(port) as prometheus:
            system.api(*flags)
            workers = [system.worker(model="fake") for _ in range(2)]
            system.worker(model="fake-slow")
            system.await_models("fake", "fake-slow")
            start = time.time()
            clients = Clients(system, receiver, [path.read_bytes() for path in videos])
            for share, number in ((0.25, FEW), (0.25, MANY), (0.2, MANY), (0.3, FEW)):
                clients.set_number(number)
                receiver.statuses = [503] if number == MANY else [204]
                time.sleep(share * seconds)
                if share == 0.25 and number == MANY:
                    workers[0].kill()
            clients.set_number(0)
            dashboard = json.loads(DASHBOARD.read_text())
            return dashboard, _ask(prometheus, dashboard, start, time.time()), prometheus.alerts()


def _ask(
    prometheus: Prometheus, dashboard: dict[str, Any], start: float, end: float
) -> dict[int, list[list[Series]]]:
    return {
        panel["id"]: [prometheus.query_range(item, start, end) for item in panel["targets"]]
        for panel in dashboard["panels"]
        if panel["type"] != "row"
    }


def draw(dashboard: dict[str, Any], shown: dict[int, list[list[Series]]], output: Path) -> None:
    """Draw all panels into a WebP file."""
    plt.rcParams |= {"text.color": TEXT, "font.size": 9, "font.family": "DejaVu Sans"}
    figure = plt.figure(figsize=SIZE_INCHES, dpi=DOTS_PER_INCH, facecolor=BACK)
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        top = 1 - place["y"] / ROW_UNITS
        if panel["type"] == "row":
            figure.text(0.012, top - 0.6 / ROW_UNITS, panel["title"], va="center", size=12)
            continue
        box = (place["x"] / 24 + 0.004, top - place["h"] / ROW_UNITS + 0.003)
        size = (place["w"] / 24 - 0.008, place["h"] / ROW_UNITS - 0.006)
        figure.add_artist(
            plt.Rectangle(box, *size, facecolor=PANEL, edgecolor=FAINT, lw=0.8, zorder=-1)
        )
        left = box[0] + 0.008
        figure.text(
            left, box[1] + size[1] - 0.004, panel["title"], va="top", size=10, weight="bold"
        )
        series = [item for target in shown[panel["id"]] for item in target]
        if panel["type"] == "stat":
            _draw_stat(figure, panel, series, (box, size))
            continue
        axes = figure.add_axes((left + 0.032, box[1] + 0.038, size[0] - 0.052, size[1] - 0.058))
        _draw_lines(axes, panel, series)
    figure.canvas.draw()
    Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[..., :3]).save(
        output, quality=88, method=6
    )

    return np.asarray(figure.canvas.buffer_rgba())[..., :3]


def _draw_stat(figure: Any, panel: dict[str, Any], series: list[Series], place: Any) -> None:
    """Draw the last value in large figures above its course."""
    (left, bottom), (width, height) = place
    if not series:
        figure.text(left + width / 2, bottom + height / 2, "No data", ha="center", color="#777")
        return
    item, defaults = series[0], panel["fieldConfig"]["defaults"]
    steps = defaults["thresholds"]["steps"]
    reached = [s["color"] for s in steps if s["value"] is None or item.values[-1] >= s["value"]]
    color = {"green": "#73bf69", "orange": "#ff9830", "red": "#f2495c"}[reached[-1]]
    axes = figure.add_axes((left + 0.002, bottom + 0.002, width - 0.004, height * 0.35))
    axes.axis("off")
    axes.fill_between(item.times, item.values, color=color, alpha=0.25, lw=0)
    axes.plot(item.times, item.values, color=color, lw=1)
    axes.set(xlim=(item.times[0], item.times[-1]), ylim=(0, max(1e-9, *item.values) * 1.1))
    text = _text(item.values[-1], defaults["unit"])
    figure.text(
        left + width / 2,
        bottom + height * 0.58,
        text,
        size=26,
        color=color,
        ha="center",
        va="center",
    )


def _draw_lines(axes: Axes, panel: dict[str, Any], series: list[Series]) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    unit = defaults["unit"]
    axes.set_facecolor(PANEL)
    axes.grid(color=FAINT, lw=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=TEXT, length=0, labelsize=8)
    axes.tick_params(axis="x", pad=6)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _text(value, unit)))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda at, _: time.strftime("%H:%M", time.gmtime(at)))
    )
    axes.xaxis.set_major_locator(MultipleLocator(60))
    series = [item for item in series if any(not math.isnan(value) for value in item.values)]
    if not series:
        axes.text(0.5, 0.5, "No data", transform=axes.transAxes, ha="center", color="#777", size=13)
        axes.set_xticks([])
        axes.set_yticks([])
        return
    largest = sorted(series, key=lambda item: -sum(v for v in item.values if v == v))[:8]
    if defaults["custom"]["stacking"]["mode"] == "normal":
        _stack(axes, largest)
    else:
        for item, color in zip(largest, PALETTE, strict=False):
            axes.plot(item.times, item.values, color=color, lw=1.2, label=item.label)
            axes.fill_between(item.times, item.values, color=color, alpha=0.08, lw=0)
    axes.set_ylim(0, defaults.get("max"))
    axes.legend(
        loc="upper left",
        bbox_to_anchor=(-0.08, -0.12),
        ncol=2,
        frameon=False,
        labelcolor=TEXT,
        fontsize=7.5,
        handlelength=1,
        columnspacing=1,
        labelspacing=0.25,
        borderpad=0,
    )


def _stack(axes: Axes, series: list[Series]) -> None:
    times = sorted({at for item in series for at in item.times})
    columns = [dict(zip(item.times, item.values, strict=True)) for item in series]
    rows = [[0 if math.isnan(v := column.get(at, 0)) else v for at in times] for column in columns]
    colors = PALETTE[: len(series)]
    axes.stackplot(times, rows, colors=colors, labels=[s.label for s in series], alpha=0.55, lw=0)


def _text(value: float, unit: str) -> str:
    """Return a value as the dashboard shows it."""
    if unit == "percentunit":
        return f"{100 * value:.3g} %"
    if unit == "bytes":
        return f"{value / 1024**2:.0f} MiB"
    if unit == "s":
        return f"{value:.3g} s" if value >= 1 or value == 0 else f"{1000 * value:.3g} ms"
    return f"{value:.3g}{' /s' if unit == 'reqps' else ''}"


def main() -> None:
    """Run, draw, and print the alerts at the end of the run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--minutes", type=float, default=5.0)
    options = parser.parse_args()
    dashboard, shown, alerts = run(60 * options.minutes)
    empty = [
        p["title"] for p in dashboard["panels"] if p["type"] != "row" and not any(shown[p["id"]])
    ]
    draw(dashboard, shown, options.output)
    print(f"{options.output}; panels without data: {empty}; alerts: {alerts}")


if __name__ == "__main__":
    main()
