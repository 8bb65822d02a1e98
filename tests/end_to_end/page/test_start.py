"""The first view, and a job until it has ended."""

import re

import pytest
from playwright.sync_api import FilePayload, expect

from rollout_core.jobs.folder_store import FolderStore
from tests.end_to_end.page.conftest import KEYED
from tests.end_to_end.page.visit import padded

KEY = "key-of-ben"
HOSTILE = "<img src=x onerror=alert(1)>\u202egpj.\u2066\u200b.mp4"
SIZES = [
    pytest.param("dark", 1280, 800, id="dark and wide"),
    pytest.param("light", 360, 740, id="light and 360 px"),
]


PACE = 1e6
"""Bytes per second of an upload that is to be seen."""


@pytest.fixture(scope="module")
def large(video, tmp_path_factory):
    """The path of a video that is sent in three parts."""
    path = tmp_path_factory.mktemp("video") / "walk in the park.mp4"
    path.write_bytes(padded(video, 20))
    return path


@pytest.fixture
def busy(system, video):
    """Return the jobs of a worker that has two, the first of which runs until it is canceled."""
    jobs = [system.accepted(video, fake={"seconds": 600}) for _ in range(2)]
    system.wait(jobs[0], "running")
    yield jobs
    for job in jobs:
        system.client.post(f"/v1/jobs/{job}/cancel")
    for job in jobs:
        system.wait(job)


WATCH_PROGRESS = """() => {
    window.told = [];
    const look = () => {
        const share = document.querySelector(".stages progress")?.getAttribute("value");
        const note = document.querySelector(".now .note")?.textContent;
        if (share && note) window.told.push([Number(share), note]);
    };
    const options = {subtree: true, childList: true, attributes: true};
    new MutationObserver(look).observe(document.body, options);
}"""


def test_the_sample_is_explained_and_the_second_time_answered_at_once(visit, system):
    seen = visit()
    for _ in range(2):
        seen.button("Try the sample").click()
        job = seen.await_job()
        seen.await_result()
        seen.page.get_by_role("link", name="New video").click()
        seen.see("sample.mp4")
    assert system.job(job)["reused_from"]


def test_an_upload_tells_its_progress_and_leads_to_the_job(visit, large):
    seen = visit()
    seen.see("What did the model look at?")
    seen.page.evaluate(WATCH_PROGRESS)
    seen.pace(4 * PACE)
    seen.choose_file(large)
    seen.see("Sending the video")
    expect(seen.page.get_by_role("heading", level=1)).to_have_text("walk in the park.mp4")
    seen.await_job()
    told = [(share, note) for share, note in seen.page.evaluate("() => told") if "MB" in note]
    shares = [share for share, _ in told]
    assert shares == sorted(shares)
    assert len({share for share in shares if 0 < share < 1}) > 2
    assert any(re.fullmatch(r"[\d.]+ of 20\.0 MB · about \d+ s left", note) for _, note in told)
    seen.await_result()


def test_the_local_video_plays_while_the_job_runs(visit, video):
    seen = visit()
    seen.script(seconds=2)
    seen.choose(video)
    seen.await_job()
    playing = (
        "video => new Promise(told => video.requestVideoFrameCallback(() => told(video.muted)))"
    )
    assert seen.page.locator(".screen video").evaluate(playing)
    seen.await_result()


def test_a_video_is_dropped_anywhere_on_the_window(visit):
    seen = visit()
    seen.see("What did the model look at?")
    data = seen.page.evaluate_handle(
        """async () => {
            const data = new DataTransfer();
            const video = await (await fetch("page/sample.mp4")).blob();
            data.items.add(new File([video], "dropped.mp4"));
            return data;
        }"""
    )
    bar = seen.page.locator("header")
    bar.dispatch_event("dragover", {"dataTransfer": data})
    expect(seen.page.locator(".drop.over")).to_be_visible()
    bar.dispatch_event("drop", {"dataTransfer": data})
    seen.await_job()
    expect(seen.page.get_by_role("heading", level=1).first).to_have_text("dropped.mp4")


def test_a_video_is_pasted(visit):
    seen = visit()
    seen.see("What did the model look at?")
    seen.page.evaluate(
        """async () => {
            const data = new DataTransfer();
            const video = await (await fetch("page/sample.mp4")).blob();
            data.items.add(new File([video], "pasted.mp4"));
            const options = {clipboardData: data, bubbles: true};
            document.body.dispatchEvent(new ClipboardEvent("paste", options));
        }"""
    )
    seen.await_job()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(b"a text and not a video", "is not a video"), (b"", "is empty")],
)
def test_what_is_no_video_is_refused_before_it_is_sent(visit, content, sentence):
    seen = visit()
    seen.choose(content, "notes.txt", "text/plain")
    assert sentence in seen.see("“notes.txt”").inner_text()
    assert ("POST", f"{seen.url}/v1/uploads") not in seen.calls


def test_stages_are_told_and_the_job_can_be_canceled(visit, system, video):
    seen = visit()
    seen.script(seconds=600)
    seen.choose(video)
    job = seen.await_job()
    seen.see("Explaining the video")
    now = seen.page.locator(".stages .now")
    expect(now.locator(".note")).to_have_text(re.compile(r"^\d+ of 100$"))
    expect(seen.page.locator(".stages .done")).not_to_have_count(0)
    seen.button("Cancel").click()
    seen.see("This job was stopped before its end.")
    assert system.job(job)["state"] == "canceled"


def test_the_place_in_the_queue_is_told(visit, system, busy, video):
    waiting = system.accepted(video)
    seen = visit(f"#/jobs/{waiting}")
    seen.see("2nd in line")
    for job in busy:
        system.client.post(f"/v1/jobs/{job}/cancel")
    seen.await_result()


def test_a_job_without_a_worker_says_what_that_means(visit, system, video):
    worker = system.worker(model="fake-slow")
    system.await_models("fake-slow")
    worker.stop()
    job = system.accepted(video, model="fake-slow")
    seen = visit(f"#/jobs/{job}")
    seen.see("Waiting for a worker")
    seen.see("starts by itself when one comes")
    seen.button("Cancel").click()
    seen.see("Canceled")


def test_an_incomplete_video_can_be_explained_as_far_as_it_is_there(visit, system, video):
    seen = visit()
    seen.script(fail="video_incomplete")
    seen.choose(video)
    first = seen.await_job()
    seen.see("A part of the video is missing")
    seen.page.unroute("**/v1/jobs")
    seen.script()
    seen.button("Explain the part that is there").click()
    seen.await_result()
    second = system.job(seen.await_job())
    assert second["id"] != first
    assert second["request"]["allow_incomplete"]


def test_a_part_that_could_not_be_explained_is_not_offered_again(visit, video):
    seen = visit()
    seen.script(fail="video_incomplete")
    seen.choose(video)
    seen.await_job()
    first = seen.page.url
    seen.button("Explain the part that is there").click()
    expect(seen.page).not_to_have_url(first)
    seen.see("A part of the video is missing")
    expect(seen.button("Explain the part that is there")).to_have_count(0)


def test_a_video_that_is_too_long_can_be_explained_in_part(visit, system, video):
    seen = visit()
    seen.script(fail="video_too_long")
    seen.choose(video)
    seen.await_job()
    seen.see("The video is too long")
    seen.page.get_by_label("From").fill("1")
    seen.page.get_by_label("To").fill("0.5")
    seen.see("The end must come after the start.")
    expect(seen.button("Explain this part")).to_be_disabled()
    seen.page.get_by_label("To").fill("2")
    seen.page.unroute("**/v1/jobs")
    seen.script()
    seen.button("Explain this part").click()
    seen.await_result()
    request = system.job(seen.await_job())["request"]
    assert (request["start_seconds"], request["end_seconds"]) == (1, 2)


def test_an_expired_result_keeps_what_the_model_said(visit, system, video):
    job = system.wait(system.accepted(video))
    FolderStore(system.data_dir).expire(job["id"])
    seen = visit(f"#/jobs/{job['id']}")
    seen.see("The result has expired")
    seen.see(job["result"]["predictions"][0]["label"])


def test_an_unknown_job_is_told(visit):
    visit(f"#/jobs/{'0' * 32}").see("There is no such job")


def test_an_address_that_changes_at_the_first_drawing_is_followed(visit):
    seen = visit()
    seen.page.add_init_script(
        f"""new MutationObserver((_, observer) => {{
            if (!document.querySelector(".options")) return;
            observer.disconnect();
            location.hash = "#/jobs/{"0" * 32}";
        }}).observe(document, {{ childList: true, subtree: true }});"""
    )
    seen.page.reload()
    seen.see("There is no such job")


def test_the_options_shape_the_request_and_are_kept(visit, system, video):
    seen = visit()
    seen.page.get_by_text("Options").click()
    seen.page.get_by_label("Method").select_option("attention")
    seen.page.get_by_label("To").fill("1.5")
    seen.choose(video)
    request = system.job(seen.await_job())["request"]
    assert (request["method"], request["end_seconds"]) == ("attention", 1.5)
    seen.go()
    seen.page.reload()
    seen.see("Raw attention · whole video")


def test_a_recent_job_is_opened_and_deleted(visit, system, video):
    job = system.wait(system.accepted(video, tag="to delete"))["id"]
    seen = visit()
    card = seen.page.locator(".card", has=seen.page.locator(f'a[href$="{job}"]'))
    expect(card.locator("canvas")).not_to_have_attribute("width", "0")
    card.get_by_role("button", name="Delete video.mp4").click()
    card.get_by_role("button", name="Keep").click()
    card.get_by_role("button", name="Delete video.mp4").click()
    card.get_by_role("button", name="Delete", exact=True).click()
    expect(card).to_have_count(0)
    assert system.client.get(f"/v1/jobs/{job}").status_code == 404


def test_a_hostile_file_name_is_a_text(visit, video):
    seen = visit(viewport={"width": 360, "height": 740})
    seen.script(seconds=1)
    seen.choose(video, HOSTILE + "w" * (255 - len(HOSTILE) - 4) + ".mp4")
    seen.await_job()
    title = seen.page.get_by_role("heading", level=1)
    expect(title).to_have_text(re.compile("^<img src=x onerror=alert"))
    assert not set("\u202e\u2066\u200b") & set(title.inner_text())
    seen.check()
    seen.await_result()
    seen.go()
    seen.see("<img src=x")
    seen.check()
    assert seen.page.locator("img[src=x]").count() == 0


def test_a_wrong_key_is_told_and_the_right_one_kept_until_log_out(visit):
    seen = visit(api=KEYED)
    field = seen.page.get_by_label("API key")
    expect(field).to_be_focused()
    field.fill("key-of-nobody")
    field.press("Enter")
    seen.see("does not know this key")
    field.fill(KEY)
    field.press("Enter")
    seen.see("What did the model look at?")
    seen.page.reload()
    seen.see("What did the model look at?")
    seen.button("Log out").click()
    seen.see("This service needs a key")
    seen.page.reload()
    seen.see("This service needs a key")


def test_a_session_that_ends_during_an_upload_asks_again_and_goes_on(visit, large):
    seen = visit(api=KEYED)
    seen.page.get_by_label("API key").fill(KEY)
    seen.page.keyboard.press("Enter")
    seen.pace(PACE)
    seen.choose_file(large)
    expect(seen.page.locator(".stages .now .note")).to_have_text(re.compile(r"^(0\.[1-9]|[1-9])"))
    seen.context.clear_cookies()
    seen.pace(-1)
    seen.see("Your session has ended")
    seen.check()
    seen.page.get_by_label("API key").fill(KEY)
    seen.page.keyboard.press("Enter")
    seen.await_job()
    seen.await_result()
    assert seen.calls.count(("POST", f"{seen.url}/v1/uploads")) == 1


def test_a_reload_in_the_middle_of_an_upload_goes_on_with_it(visit, large, system):
    seen = visit()
    seen.pace(PACE)
    seen.choose_file(large)
    expect(seen.page.locator(".stages .now .note")).to_have_text(re.compile(r"^[1-9]"))
    with seen.page.expect_response(lambda answer: answer.request.method == "HEAD") as asked:
        seen.page.reload()
    assert int(asked.value.headers["upload-offset"]) > 0
    seen.see("Sending the video")
    seen.pace(-1)
    job = system.job(seen.await_job())
    assert job["filename"] == large.name
    assert seen.calls.count(("POST", f"{seen.url}/v1/uploads")) == 1


def test_a_service_that_goes_away_and_comes_back_is_waited_for(visit, system, large):
    api = system.processes[1]
    seen = visit()
    seen.pace(PACE)
    seen.script(seconds=3)
    seen.choose_file(large)
    expect(seen.page.locator(".stages .now .note")).to_have_text(re.compile(r"^\d\d?\.\d of"))
    api.take_down()
    seen.see("The service does not answer. Trying again…")
    seen.check()
    api.bring_up()
    seen.pace(-1)
    seen.await_job()
    seen.see_no_more("The service does not answer")
    seen.see("Explaining the video")
    api.take_down()
    seen.see("The service does not answer. Trying again…")
    api.bring_up()
    seen.see_no_more("The service does not answer")
    seen.await_result()


def test_everything_can_be_done_by_keyboard(visit, video):
    seen = visit()
    seen.script(seconds=600)
    seen.see("What did the model look at?")
    keys = seen.page.keyboard
    file: FilePayload = {"name": "walk.mp4", "mimeType": "video/mp4", "buffer": video}
    seen.page.on("filechooser", lambda chooser: chooser.set_files(file))

    def tab_to(name):
        for _ in range(30):
            keys.press("Tab")
            focused = seen.page.evaluate("() => document.activeElement.textContent.trim()")
            if focused.startswith(name):
                return
        raise AssertionError(f"{name} cannot be reached")

    tab_to("Options")
    keys.press("Enter")
    expect(seen.page.get_by_label("Model")).to_be_visible()
    seen.page.reload()
    seen.see("What did the model look at?")
    tab_to("Choose a video")
    keys.press("Enter")
    seen.await_job()
    seen.see("Explaining the video")
    tab_to("Cancel")
    keys.press("Enter")
    seen.see("This job was stopped before its end.")
    tab_to("Choose another video")
    keys.press("Enter")
    seen.see("What did the model look at?")


@pytest.mark.parametrize(("scheme", "width", "height"), SIZES)
def test_every_state_is_accessible_and_fits(visit, system, large, busy, scheme, width, height):
    options = {"color_scheme": scheme, "viewport": {"width": width, "height": height}}
    seen = visit(api=KEYED, **options)
    seen.see("This service needs a key")
    seen.check()

    seen = visit(**options)
    seen.see("Recent")
    seen.page.get_by_text("Options").click()
    seen.choose(b"no video", "notes.txt", "text/plain")
    seen.see("is not a video")
    seen.check()
    seen.page.locator(".card").first.get_by_role("button").click()
    seen.see("Delete this result?")
    seen.check()

    seen.script(fail="video_too_long")
    seen.pace(PACE)
    seen.choose_file(large)
    seen.see("Sending the video")
    seen.check()
    seen.pace(-1)
    seen.await_job()
    seen.see("in line")
    seen.check()
    for job in busy:
        system.client.post(f"/v1/jobs/{job}/cancel")
    seen.see("This did not work")
    seen.check()

    seen.go(f"#/jobs/{'0' * 32}")
    seen.see("There is no such job")
    seen.check()
