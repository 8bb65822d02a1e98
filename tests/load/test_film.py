import av

from tests.load.film import FRAMES, make_film


def test_the_film_has_about_a_megabyte_and_can_be_decoded(tmp_path):
    path = make_film(tmp_path / "film.mp4")
    assert 0.9e6 < path.stat().st_size < 1.1e6
    with av.open(str(path)) as container:
        assert len(list(container.decode(video=0))) == FRAMES
