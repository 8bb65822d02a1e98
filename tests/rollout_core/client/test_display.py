import io

from rollout_core.client.display import Display, printable


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_without_a_terminal_each_phase_is_one_line():
    out, err = io.StringIO(), io.StringIO()
    display = Display(out, err)
    for done in range(5):
        display.show("a.mp4", "uploading", done, 4)
    display.show("a.mp4", "explain", 1, 8)
    display.end("a.mp4", "a.mp4: left")
    assert err.getvalue() == "a.mp4: uploading\na.mp4: explain\n"
    assert out.getvalue() == "a.mp4: left\n"


def test_on_a_terminal_lines_are_drawn_over_each_other():
    out, err = io.StringIO(), Terminal()
    display = Display(out, err)
    display.show("a.mp4", "uploading", 1, 2)
    display.show("b.mp4", "uploading", 2, 2)
    display.end("a.mp4", "a.mp4: left")
    display.close()
    drawn = err.getvalue()
    assert "a.mp4: uploading  50% [############............]\n" in drawn
    assert "\x1b[2F\x1b[J" in drawn
    assert drawn.endswith("\x1b[1F\x1b[J")
    assert out.getvalue() == "a.mp4: left\n"


def test_fast_progress_is_not_drawn_each_time():
    err = Terminal()
    display = Display(io.StringIO(), err)
    for done in range(10_000):
        display.show("a.mp4", "uploading", done, 10_000)
    assert err.getvalue().count("uploading") < 100


def test_a_quiet_display_prints_results_alone():
    out, err = io.StringIO(), io.StringIO()
    display = Display(out, err, quiet=True)
    display.show("a.mp4", "uploading")
    display.end("a.mp4", "{}")
    assert (out.getvalue(), err.getvalue()) == ("{}\n", "")


def test_names_cannot_steer_the_terminal():
    assert printable("a\x1b[2J\nb é") == "a\N{REPLACEMENT CHARACTER}[2J\N{REPLACEMENT CHARACTER}b é"
    err = io.StringIO()
    Display(io.StringIO(), err).show("\x1b]0;title\x07.mp4", "uploading")
    assert "\x1b" not in err.getvalue()
