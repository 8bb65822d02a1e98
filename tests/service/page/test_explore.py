"""The view of a finished job, in a real browser with a real service and the real model."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from rollout_core.archive import load
from rollout_core.contract import Overlay, Target
from rollout_core.pictures.heat import alpha_table, heat_track, rgb_table
from rollout_core.relevance.faithfulness import summarize
from tests.service.page.test_data import SAMPLE
from tests.system.browser import open_browser
from tests.system.system import open_system
from tests.system.tools import require_tool

AXE = Path(__file__).parents[2] / "node" / "node_modules" / "axe-core" / "axe.min.js"
TIMEOUT_MILLISECONDS = 60_000
HOSTILE = "<img src=x onerror=alert(1)>.mp4"
EXPLORABLE = {"preview": True, "per_layer": True, "full_rollout": True}
MAX_DRAW_MILLISECONDS = 4.0
FRAME_SECONDS = 1 / 25
"""Of the sample."""

expect.set_options(timeout=TIMEOUT_MILLISECONDS)


class Service:
    """The service with one video, and the jobs on it."""

    def __init__(self, system, folder):
        self.system = system
        self.http = system.client
        self.url = str(self.http.base_url)
        self._folder = folder
        self.upload = self.send_video("sample.mp4")

    def send_video(self, name):
        headers = {"Content-Type": "video/mp4"}
        answer = self.http.post(
            "/v1/uploads", params={"filename": name}, content=SAMPLE.read_bytes(), headers=headers
        )
        return answer.json()["id"]

    def explain(self, *, upload=None, **request):
        """Return the ended job."""
        asked = {"upload": upload or self.upload, "overlay": None} | request
        answer = self.http.post("/v1/jobs", json=asked)
        assert answer.is_success, answer.text
        job = self.system.wait(answer.json()["id"])
        assert job["state"] == "succeeded", job
        return job

    def archive(self, job_id):
        path = self._folder / f"{job_id}.npz"
        if not path.exists():
            path.write_bytes(self.http.get(f"/v1/jobs/{job_id}/artifacts/rollout.npz").content)
        return load(path)


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    require_tool("chromium")
    with open_system(forked=True) as system:
        system.api()
        system.worker()
        system.await_models("moving-things")
        yield Service(system, tmp_path_factory.mktemp("arrays"))


@pytest.fixture(scope="module")
def job(service):
    return service.explain(**EXPLORABLE)


@pytest.fixture(scope="module")
def browser():
    with open_browser() as browser:
        yield browser


@pytest.fixture
def open_view(browser, service):
    """Return a function that opens the view of a job; the page may log no error."""
    contexts, errors = [], []

    def open_view(job_id, query="", *, width=1280, height=800, before=None, **options):
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(TIMEOUT_MILLISECONDS)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
        if before:
            before(page)
        page.goto(f"{service.url}/#/jobs/{job_id}{query}")
        page.wait_for_selector(".explore .across")
        return page

    yield open_view
    for context in contexts:
        context.close()
    assert not errors


def wait_for_frame(page, seconds):
    """Wait until the video stands at a frame, and the heat of it is there."""
    page.wait_for_function(
        "wanted => window.__rollout?.heat.current?.track && Math.abs(__rollout.player.seconds - "
        "wanted) < 0.021 && !__rollout.player.video.seeking && !__rollout.player.playing",
        arg=seconds,
    )
    return page.evaluate("__rollout.player.seconds")


def state(page, name):
    return page.evaluate("name => __rollout.state.current[name]", name)


def canvas_centres(page, rows, columns, pane=0):
    """Return the colours at the centres of all patches, `h w rgba`."""
    values = page.evaluate(
        """([pane, rows, columns]) => {
            const canvas = document.querySelectorAll(".heat")[pane];
            const context = canvas.getContext("2d");
            const across = canvas.width / columns, down = canvas.height / rows;
            return Array.from({length: rows * columns}, (_, n) => Array.from(context.getImageData(
                (n % columns + 0.5) * across, (Math.floor(n / columns) + 0.5) * down, 1, 1).data));
        }""",
        [pane, rows, columns],
    )
    return np.array(values).reshape(rows, columns, 4)


def expected_centres(track, seconds, *, colormap="plasma", opacity=0.6):
    """Return what the product's own pictures are made of, `h w rgba`."""
    heat = np.rint(255 * track.at(seconds)).astype(np.uint8)
    colours = rgb_table(colormap)
    alpha = np.rint(255 * alpha_table(Overlay(opacity=opacity)))
    return np.concatenate([colours[heat], alpha[heat][..., None]], axis=-1).astype(int)


def assert_same_colours(found, expected):
    """A canvas keeps colours multiplied by alpha, so faint ones are rounded."""
    assert np.abs(found[..., 3] - expected[..., 3]).max() <= 1
    shades = [pixels[..., :3] * pixels[..., 3:] / 255 for pixels in (found, expected)]
    assert np.abs(shades[0] - shades[1]).max() <= 3


def track_of(archive, relevance=None):
    maps = archive.relevance if relevance is None else relevance
    return heat_track(maps, pts_seconds=archive.pts_seconds, frame_index=archive.frame_index)


def shown_heat(page):
    """Return the maps that are shown, scaled over the video, `t (h w)`."""
    return np.array(page.evaluate("Array.from(__rollout.heat.current.track.heat)"), np.float32)


PLAIN = "smoothing=0&scale=video"


class TestHeat:
    @pytest.mark.parametrize(("seconds", "colormap"), [(0.4, "plasma"), (4.0, "viridis")])
    def test_it_is_that_of_the_frame(self, open_view, service, job, seconds, colormap):
        query = f"?seconds={seconds}&{PLAIN}&colormap={colormap}&opacity=0.9"
        page = open_view(job["id"], query)
        shown = wait_for_frame(page, seconds)
        archive = service.archive(job["id"])

        found = canvas_centres(page, *archive.relevance.shape[2:])

        expected = expected_centres(track_of(archive), shown, colormap=colormap, opacity=0.9)
        assert expected[..., 3].max() > 20
        assert_same_colours(found, expected)

    def test_it_stays_with_the_frames_while_they_play(self, open_view, service, job):
        page = open_view(job["id"], f"?{PLAIN}")
        page.wait_for_function("() => __rollout.player.seconds > 0.3")
        page.keyboard.press("k")
        page.wait_for_function("() => !__rollout.player.playing")
        page.wait_for_timeout(500)  # a frame that was on its way is presented
        shown = page.evaluate("__rollout.player.seconds")
        archive = service.archive(job["id"])

        found = canvas_centres(page, *archive.relevance.shape[2:])

        assert_same_colours(found, expected_centres(track_of(archive), shown))

    def test_drawing_a_frame_is_quick(self, open_view, job):
        page = open_view(job["id"], "?smoothing=1")
        page.wait_for_function("() => __rollout.heat.current?.durations.length > 30")

        assert page.evaluate("__rollout.drawMilliseconds()") < MAX_DRAW_MILLISECONDS

    def test_a_layer_is_shown_at_once(self, open_view, service, job):
        page = open_view(job["id"], "?seconds=1")
        wait_for_frame(page, 1)
        archive = service.archive(job["id"])
        slider = page.get_by_role("slider", name="Layers")

        slider.focus()
        page.keyboard.press("ArrowLeft")

        expect(slider).to_have_attribute("aria-valuetext", "Layers 2 to 4")
        assert state(page, "layer") == 1
        expected = track_of(archive, archive.layer_relevance[:, 1]).heat.ravel()
        page.wait_for_function(
            "wanted => Math.abs(__rollout.heat.current.track.heat[100] - wanted) < 1e-4",
            arg=float(expected[100]),
        )
        np.testing.assert_allclose(shown_heat(page), expected, atol=1e-5)


class TestPatches:
    def asked(self, service, frame, row, column):
        query = {"frame": frame, "row": row, "column": column}
        archive = service.archive(service.explain(query=query)["id"])
        return track_of(archive).heat.ravel()

    def wait_for_patch(self, page, expected):
        page.wait_for_function(
            "wanted => wanted.every((value, n) => "
            "Math.abs(__rollout.heat.current.track.heat[n] - value) < 4e-3)",
            arg=expected.tolist(),
        )

    def test_a_click_answers_as_a_job_with_that_query(self, open_view, service, job):
        page = open_view(job["id"], "?seconds=4.3")
        wait_for_frame(page, 4.3)
        box = page.locator(".heat").bounding_box()

        page.mouse.click(box["x"] + box["width"] * 9.5 / 14, box["y"] + box["height"] * 4.5 / 14)

        assert state(page, "patch") == {"frame": 3, "row": 4, "column": 9}
        self.wait_for_patch(page, self.asked(service, 3, 4, 9))
        expect(page.locator(".cell.asked")).to_have_count(1)
        page.keyboard.press("Escape")
        expect(page.locator(".patch.asked")).to_have_count(0)
        self.wait_for_patch(page, track_of(service.archive(job["id"])).heat.ravel())

    def test_it_can_be_asked_by_keyboard(self, open_view, service, job):
        page = open_view(job["id"], "?seconds=0")
        page.keyboard.press("p")
        page.keyboard.press("ArrowUp")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")

        patch = state(page, "patch")
        assert (patch["row"], patch["column"]) == (6, 8)
        page.keyboard.press("Escape")
        assert state(page, "patch") == patch, "the first Escape leaves the patches"
        page.keyboard.press("Escape")
        assert state(page, "patch") is None

    def test_the_arrows_go_on_from_a_click(self, open_view, job):
        page = open_view(job["id"], "?seconds=0")
        page.keyboard.press("p")
        page.locator(".patches").click(position={"x": 5, "y": 5})
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")

        patch = state(page, "patch")
        assert (patch["row"], patch["column"]) == (0, 1)

    def test_without_the_full_rollout_a_job_answers(self, open_view, service):
        plain = service.explain(method="attention", preview=True)
        page = open_view(plain["id"], "?seconds=4.3")
        wait_for_frame(page, 4.3)

        page.locator(".patches").click(position={"x": 5, "y": 5})

        query = {"frame": 3, "row": 0, "column": 0}
        expected = track_of(service.archive(service.explain(method="attention", query=query)["id"]))
        self.wait_for_patch(page, expected.heat.ravel())


class TestMethods:
    def test_another_method_is_computed_once(self, open_view, service, job):
        page = open_view(job["id"], "?seconds=1")
        wait_for_frame(page, 1)
        page.get_by_role("button", name="Contribution rollout").click()
        page.wait_for_function("first => __rollout.state.current.job !== first", arg=job["id"])
        other = state(page, "job")
        page.wait_for_function("id => location.hash.includes(id)", arg=other)
        posted = []
        page.on("request", lambda request: posted.append(request.method))

        page.get_by_role("button", name="Attention rollout").click()
        page.get_by_role("button", name="Contribution rollout").click()

        assert state(page, "job") == other
        assert "POST" not in posted
        assert service.http.get(f"/v1/jobs/{other}").json()["upload"] == service.upload

    def test_a_class_is_explained(self, open_view, service, job):
        page = open_view(job["id"], "?seconds=1")
        wait_for_frame(page, 1)
        prediction = job["result"]["predictions"][1]

        button = page.locator(".predictions").get_by_role("button").nth(1)
        button.click()

        expect(button).to_have_attribute("aria-pressed", "true")
        made = service.http.get(f"/v1/jobs/{state(page, 'job')}").json()["request"]
        assert made["method"] == "contribution_rollout"
        assert made["target"][0] == prediction["index"]

    def choose_against(self, page, words):
        before = state(page, "job")
        page.get_by_label("Against").select_option(label=words)
        page.wait_for_function("before => __rollout.state.current.job !== before", arg=before)
        expect(page.get_by_label("Against").locator("option:checked")).to_have_text(words)

    def test_a_difference_may_be_from_another_reference(self, open_view, service, job):
        page = open_view(job["id"], "?seconds=1")
        wait_for_frame(page, 1)
        page.get_by_role("button", name="Difference").click()
        expect(page.get_by_label("Against")).to_be_visible()
        still = state(page, "job")

        self.choose_against(page, "the clip blurred")

        made = service.http.get(f"/v1/jobs/{state(page, 'job')}").json()["request"]
        assert (made["method"], made["reference"]) == ("difference", "blur")
        self.choose_against(page, "the clip held still")
        assert state(page, "job") == still, "what is known is not computed again"

    def test_a_class_is_explained_against_another(self, open_view, service, job):
        page = open_view(job["id"], "?seconds=1")
        wait_for_frame(page, 1)
        first, second = job["result"]["predictions"][:2]
        page.locator(".predictions").get_by_role("button").first.click()
        expect(page.get_by_label("Against")).to_be_visible()

        self.choose_against(page, second["label"])

        made = service.http.get(f"/v1/jobs/{state(page, 'job')}").json()["request"]
        assert (made["target"][0], made["against"]) == (first["index"], second["index"])

    def test_the_classes_of_one_result_cost_no_other_job(self, open_view, service, job):
        labels = [prediction["index"] for prediction in job["result"]["predictions"]]
        contributions = service.explain(
            method="contribution_rollout", target=labels, preview=True, per_layer=True
        )
        page = open_view(contributions["id"], "?seconds=1")
        wait_for_frame(page, 1)
        posted = []
        page.on("request", lambda request: posted.append(request.method))

        button = page.locator(".predictions").get_by_role("button").nth(2)
        button.click()

        expect(button).to_have_attribute("aria-pressed", "true")
        shown = wait_for_frame(page, 1)
        assert "POST" not in posted
        assert (state(page, "job"), state(page, "target")) == (contributions["id"], 2)
        arrays = service.archive(contributions["id"])
        track = heat_track(
            arrays.target_relevance[2],
            pts_seconds=arrays.pts_seconds,
            frame_index=arrays.frame_index,
        )
        heat = page.evaluate("[...__rollout.heat.current.track.heat]")
        np.testing.assert_allclose(heat, track.heat.ravel(), atol=1e-6)

        page.wait_for_function("() => location.hash.includes('target=2')")
        again = open_view(contributions["id"], "?seconds=1&target=2")
        pressed = again.locator(".predictions").get_by_role("button").nth(2)
        expect(pressed).to_have_attribute("aria-pressed", "true")
        assert shown == wait_for_frame(again, 1)


class TestCompare:
    def test_two_methods_stay_in_step(self, open_view, service, job):
        other = service.explain(method="attention", preview=True, per_layer=True)
        page = open_view(job["id"], f"?{PLAIN}&compare={other['id']}")
        page.wait_for_selector(".pane:nth-child(2) .heat")
        page.wait_for_function("() => __rollout.player.seconds > 0.5")
        page.keyboard.press("k")
        page.wait_for_function("() => !__rollout.player.playing")
        page.keyboard.press(".")
        seconds = page.evaluate("__rollout.player.wanted")
        shown = wait_for_frame(page, seconds)

        rows, columns = service.archive(job["id"]).relevance.shape[2:]
        for pane, one in enumerate((job, other)):
            expected = expected_centres(track_of(service.archive(one["id"])), shown)
            assert_same_colours(canvas_centres(page, rows, columns, pane), expected)
        assert page.evaluate(SAME_PICTURE)

    def test_another_job_follows(self, open_view, service, job):
        upload = service.send_video(HOSTILE)
        other = service.explain(upload=upload, method="attention", preview=True)
        page = open_view(job["id"], "?seconds=2")
        wait_for_frame(page, 2)
        page.keyboard.press("c")
        page.get_by_label("Compare with").select_option(f"job:{other['id']}")
        page.wait_for_selector(".pane:nth-child(2) video")

        page.keyboard.press("k")
        page.wait_for_function("() => __rollout.player.seconds > 2.5")
        page.keyboard.press("k")

        page.wait_for_function(
            "() => { const [a, b] = document.querySelectorAll('video');"
            "return a.paused && b.paused && !b.seeking && "
            "Math.abs(a.currentTime - b.currentTime) < 0.04; }"
        )

    def test_c_opens_and_closes_it(self, open_view, job):
        page = open_view(job["id"], "?seconds=1")
        page.keyboard.press("c")
        expect(page.locator(".pane")).to_have_count(2)
        page.wait_for_selector(".pane:nth-child(2) .heat")
        page.keyboard.press("c")
        expect(page.locator(".pane")).to_have_count(1)


SAME_PICTURE = """() => {
    const video = document.querySelector("video");
    const copy = document.querySelector("canvas.frame");
    const own = document.createElement("canvas");
    own.width = copy.width; own.height = copy.height;
    own.getContext("2d").drawImage(video, 0, 0);
    const [a, b] = [own, copy].map((one) =>
        one.getContext("2d").getImageData(0, 0, copy.width, copy.height).data);
    return copy.width > 0 && a.every((value, n) => Math.abs(value - b[n]) < 3);
}"""


class TestLink:
    def test_it_reopens_all_of_the_view(self, open_view, job):
        page = open_view(job["id"], "?seconds=3")
        wait_for_frame(page, 3)
        page.get_by_label("Colours").select_option("magma")
        page.get_by_role("button", name="the video").click()
        page.get_by_role("slider", name="Hide below").fill("0.2")
        page.locator(".patches").click(position={"x": 8, "y": 8})
        page.get_by_role("heading", name="Layers").click()
        page.keyboard.press("[")
        page.keyboard.press(",")
        page.wait_for_function("() => location.hash.includes('opacity=0.5&')")
        page.wait_for_function(
            "() => { const now = __rollout.state.current.seconds; return now < 2.99 &&"
            "location.hash.includes(`seconds=${Number(now.toFixed(3))}`); }"
        )
        view, link = page.evaluate("[__rollout.state.current, location.hash.replace(/^[^?]*/, '')]")

        again = open_view(job["id"], link)
        wait_for_frame(again, view["seconds"])

        reopened = again.evaluate("__rollout.state.current")
        assert reopened.pop("seconds") == pytest.approx(view.pop("seconds"), abs=1e-3)
        assert reopened == view
        assert view["patch"] is not None
        expect(again.locator(".patch.asked")).to_have_count(1)

    def test_an_unreadable_address_shows_the_view(self, open_view, job):
        page = open_view(
            job["id"], "?seconds=x&patch=99:99:99&layer=77&opacity=-1&colormap=__proto__"
        )

        page.wait_for_function("() => __rollout.heat.current?.track")
        assert state(page, "opacity") == 0.6
        assert state(page, "colormap") == "plasma"


class TestKeys:
    def test_they_are_those_of_video_players(self, open_view, service, job):
        page = open_view(job["id"], "?seconds=5")
        wait_for_frame(page, 5)
        times = track_of(service.archive(job["id"])).pts_seconds
        wanted = "__rollout.player.wanted"
        for key, seconds in [
            ("ArrowRight", 5 + FRAME_SECONDS),
            ("ArrowLeft", 5),
            ("l", 7),
            ("j", 5),
            (".", times[times > 5][0]),
            (",", times[times < times[times > 5][0]][-1]),
            ("Home", 0),
            ("3", 3),
            ("End", 10 - FRAME_SECONDS),
        ]:
            page.keyboard.press(key)
            assert page.evaluate(wanted) == pytest.approx(seconds, abs=1e-3), key
        page.keyboard.press("h")
        assert state(page, "shown") is False
        page.keyboard.press("]")
        assert state(page, "opacity") == pytest.approx(0.7)
        page.keyboard.press("1")
        page.keyboard.press("Space")
        page.wait_for_function("() => __rollout.player.playing && __rollout.player.seconds > 1.2")

    def test_fields_and_the_browser_keep_theirs(self, open_view, job):
        page = open_view(job["id"], "?seconds=5")
        wait_for_frame(page, 5)
        page.keyboard.press("Control+ArrowRight")
        page.get_by_label("Colours").focus()
        page.keyboard.press("Home")
        page.get_by_role("slider", name="Opacity").focus()
        page.keyboard.press("ArrowLeft")

        assert page.evaluate("__rollout.player.wanted") == 5
        assert state(page, "opacity") == pytest.approx(0.55)

    def test_a_question_mark_lists_them(self, open_view, job):
        page = open_view(job["id"], "?seconds=1")
        page.keyboard.press("?")
        dialog = page.get_by_role("dialog", name="Keys")
        expect(dialog).to_be_visible()
        page.keyboard.press("Escape")
        expect(dialog).to_have_count(0)

    def test_the_timeline_scrubs(self, open_view, job):
        page = open_view(job["id"], "?seconds=1")
        wait_for_frame(page, 1)
        slider = page.get_by_role("slider", name="Time")
        box = slider.bounding_box()
        page.mouse.move(box["x"] + box["width"] * 0.2, box["y"] + 10)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 10, steps=5)
        page.mouse.up()

        wait_for_frame(page, 5)
        assert float(slider.get_attribute("aria-valuenow")) == pytest.approx(5, abs=0.05)
        assert "of 8" in slider.get_attribute("aria-valuetext")

    def test_the_matrix_says_and_jumps(self, open_view, service, job):
        page = open_view(job["id"], "?seconds=1")
        matrix = page.locator(".strip .matrix")
        matrix.get_by_role("application").focus()
        for key in ("ArrowDown", "ArrowDown", "ArrowRight"):
            page.keyboard.press(key)
        row = service.archive(job["id"]).temporal_rollout[0, 2]
        share = 100 * row[1] / row.sum()
        digits = 0 if share >= 10 else 1
        said = f"Asked about frame 3 → looked at frame 2: {share:.{digits}f}\u00a0%"
        expect(matrix).to_contain_text(said)
        page.keyboard.press("Enter")
        wait_for_frame(page, service.archive(job["id"]).pts_seconds[0, 1])


class TestAccess:
    @pytest.mark.parametrize("scheme", ["dark", "light"])
    def test_axe_finds_nothing(self, open_view, service, job, scheme):
        other = service.explain(method="attention", preview=True, per_layer=True)
        page = open_view(job["id"], f"?seconds=1&compare={other['id']}", color_scheme=scheme)
        page.wait_for_selector(".pane:nth-child(2) .heat")
        page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        page.locator(".patches").first.click(position={"x": 8, "y": 8})
        expect(page.locator(".patch.asked").first).to_be_visible()
        assert violations(page) == []
        page.keyboard.press("?")
        expect(page.get_by_role("dialog")).to_be_visible()
        assert violations(page) == []

    def test_it_fits_a_phone(self, open_view, job):
        page = open_view(job["id"], "?seconds=1", width=360, height=740)
        wait_for_frame(page, 1)

        assert page.evaluate("document.documentElement.scrollWidth") == 360
        page.evaluate("scrollTo(0, document.body.scrollHeight)")
        for name in (".picture", ".track", ".controls"):
            expect(page.locator(name)).to_be_in_viewport()
        for button in page.locator(".controls button").all():
            box = button.bounding_box()
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= 360

    def test_nothing_moves_by_itself_where_that_is_asked(self, open_view, job):
        page = open_view(job["id"], reduced_motion="reduce")
        wait_for_frame(page, 0)
        assert page.evaluate("document.querySelector('video').paused")


def violations(page):
    page.evaluate(f"() => {{ {AXE.read_text(encoding='utf-8')} }}")
    found = page.evaluate("axe.run()")["violations"]
    return [(one["id"], [node["html"][:120] for node in one["nodes"]]) for one in found]


def take_picture(page, *keys):
    """Press some keys, then save the picture; return its path."""
    for key in keys:
        page.keyboard.press(key)
    if not page.get_by_role("button", name="This picture").is_visible():
        page.get_by_text("Take it with you").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="This picture").click()
    return download.value.path()


class TestFiles:
    def test_the_picture_has_the_size_of_the_preview(self, open_view, job):
        page = open_view(job["id"], "?seconds=0.4&opacity=1&scale=video&saturation=1")
        wait_for_frame(page, 0.4)
        with (
            Image.open(take_picture(page)) as shown,
            Image.open(take_picture(page, "h")) as hidden,
        ):
            size = page.evaluate(
                "(v => [v.videoWidth, v.videoHeight])(document.querySelector('video'))"
            )
            assert shown.format == "PNG"
            assert list(shown.size) == size
            difference = np.abs(np.asarray(shown, int) - np.asarray(hidden, int)).max(axis=-1)
        assert difference[:, 65:415].max() > 60, "the heat lies over the crop"
        assert difference[:, :55].max() == 0, "and nowhere else"

    def test_the_video_has_its_colour_only_without_heat(self, open_view, job):
        page = open_view(job["id"], "?seconds=0.4&saturation=0")
        wait_for_frame(page, 0.4)

        def colour(*keys):
            with Image.open(take_picture(page, *keys)) as picture:
                return int(np.ptp(np.asarray(picture.convert("RGB"), int)[:, :55], axis=-1).max())

        assert colour() < 3, "beside the heat, the video is grey"
        assert colour("h") > 60

    def test_every_file_and_the_lines_are_there(self, open_view, service, job):
        page = open_view(job["id"], "?seconds=1")
        page.get_by_text("Take it with you").click()

        links = page.locator(".files a")
        artifacts = job["result"]["artifacts"]
        assert [one.get_attribute("download") for one in links.all()] == [
            one["name"] for one in artifacts
        ]
        assert service.http.get(links.first.get_attribute("href")).is_success
        assert job["id"] not in page.get_by_role("region", name="curl lines").inner_text()
        assert "curl" in page.get_by_role("region", name="curl lines").inner_text()
        assert "import" in page.get_by_role("region", name="Python lines").inner_text()


class TestStates:
    def test_a_job_without_a_preview_is_made_explorable(self, open_view, service):
        bare = service.explain(method="contribution_rollout")
        page = open_view(bare["id"])
        page.get_by_role("button", name="Make it explorable").click()

        page.wait_for_selector(".explore video")
        made = service.http.get(f"/v1/jobs/{state(page, 'job')}").json()["request"]
        assert made["method"] == "contribution_rollout"
        assert all(made[name] for name in EXPLORABLE)

    def test_a_job_whose_upload_is_gone_still_shows(self, open_view, service):
        upload = service.send_video(HOSTILE)
        job = service.explain(upload=upload, **EXPLORABLE)
        service.http.delete(f"/v1/uploads/{upload}")
        page = open_view(job["id"], "?seconds=1")
        wait_for_frame(page, 1)

        expect(page.get_by_text("The video is no longer stored").first).to_be_visible()
        expect(page.get_by_role("button", name="Contribution rollout")).to_be_disabled()
        assert page.locator("h1").inner_text().endswith(HOSTILE)

    def test_faithfulness_is_drawn(self, open_view, job):
        curves = np.linspace(1, 0, 33) ** np.array([4, 0.25, 1, 1.1, 0.9, 1, 1])[:, None]
        measured = summarize(np.stack([curves] * 3), Target(label="left", index=0))

        def add(route):
            answer = route.fetch()
            result = answer.json() | {"faithfulness": measured.model_dump(mode="json")}
            route.fulfill(response=answer, body=json.dumps(result))

        page = open_view(
            job["id"], "?seconds=1", before=lambda page: page.route("**/result.json", add)
        )

        expect(page.locator(".chart")).to_have_count(2)
        expect(page.get_by_text("The map is right about what matters")).to_be_visible()
        first = page.locator(".chart path.most").first.get_attribute("d")
        assert len(first.split("L")) == 33
        assert violations(page) == []

    def test_many_frames_are_thinned_out(self, open_view, job):
        page = open_view(job["id"], "?seconds=1")
        shown = page.evaluate(
            "import(new URL('page/explore/timeline.js', document.baseURI))"
            ".then(({thinned}) => thinned(256, 18))"
        )

        assert len(shown) == 18
        assert shown == sorted(set(shown))
        assert 0 <= shown[0] < 256 / 18
        assert 256 - 256 / 18 < shown[-1] < 256
